#!/bin/sh
# again COUNT: takes disk, network, virtio disk and serial ports from their drivers
# and gives them back, COUNT times.
set -e
i=0
while [ $i -lt $1 ]; do
	for driver in nvme e1000e virtio-pci; do
		for d in /sys/bus/pci/drivers/$driver/0*; do
			name=${d##*/}
			echo $name > /sys/bus/pci/drivers/$driver/unbind
			echo $name > /sys/bus/pci/drivers/$driver/bind
		done
	done
	i=$((i + 1))
done
online
settled
