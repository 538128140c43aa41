#!/bin/sh
# rebind COUNT: takes disk, network and edu from their drivers and gives them
# back, COUNT times; edu changes hands between two drivers.
set -e
again() {
	for d in /sys/bus/pci/drivers/$1/0*; do
		name=${d##*/}
		echo $name > /sys/bus/pci/drivers/$1/unbind
		echo $name > /sys/bus/pci/drivers/$1/bind
	done
}
i=0
while [ $i -lt $1 ]; do
	again nvme
	again e1000e
	edu vfio-pci
	edu dma_bench
	i=$((i + 1))
done
online
