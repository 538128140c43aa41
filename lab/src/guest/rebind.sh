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
tries=0
until [ -b /dev/nvme0n1 ] && [ -e /sys/class/net/eth0 ]; do
	[ $tries -lt 300 ]
	tries=$((tries + 1))
	busybox usleep 100000
done
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
