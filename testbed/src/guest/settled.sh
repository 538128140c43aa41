#!/bin/sh
# settled: waits until the disks and the serial ports are there, with their drivers.
[ -d /sys/module/virtio_blk ] || insmod /lib/virtio_blk.ko || exit 1
tries=0
until [ -b /dev/vda ] && [ -c /dev/vport*p1 ] && [ -c /dev/vport*p30 ]; do
	[ $tries -lt 300 ] || exit 1
	tries=$((tries + 1))
	busybox usleep 100000
done
# The kernel numbers the parts of the disk as it finds them.
links() {
	for d in /sys/block/nvme*; do
		case $(cat $d/nsid) in
		1) busybox ln -sf ${d##*/} /dev/disk ;;
		2) busybox ln -sf ${d##*/} /dev/next ;;
		3) busybox ln -sf ${d##*/} /dev/swap ;;
		esac
	done
	[ -b /dev/disk ] && [ -b /dev/next ] && [ -b /dev/swap ]
}
rm -f /dev/disk /dev/next /dev/swap
until links; do
	[ $tries -lt 300 ] || exit 1
	tries=$((tries + 1))
	busybox usleep 100000
done
