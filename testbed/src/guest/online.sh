#!/bin/sh
# online: waits until disk and network are there, and sets the network up.
set -e
tries=0
until [ -b /dev/nvme0n1 -o -b /dev/vda ] && [ -e /sys/class/net/eth0 ]; do
	[ $tries -lt 300 ]
	tries=$((tries + 1))
	busybox usleep 100000
done
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
