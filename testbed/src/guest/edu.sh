#!/bin/sh
# edu [DRIVER [COMMAND...]]: binds every edu device to DRIVER, or to none, and
# runs COMMAND with the name and the IOMMU group of each.
driver=$1
[ $# = 0 ] || shift
for d in /sys/bus/pci/devices/*; do
	[ $(cat $d/vendor)$(cat $d/device) = 0x12340x11e8 ] || continue
	name=${d##*/}
	[ ! -e $d/driver ] || echo $name > $d/driver/unbind || exit 1
	if [ -n "$driver" ]; then
		echo $driver > $d/driver_override || exit 1
		echo $name > /sys/bus/pci/drivers_probe || exit 1
		[ -e $d/driver ] || exit 1
	fi
	if [ $# != 0 ]; then
		group=$(busybox readlink $d/iommu_group)
		"$@" $name ${group##*/} || exit 1
	fi
done
