#!/bin/sh
# endpoints COUNT: gives so many edu devices to dma_bench, the first ones first;
# those that have been given stay. Each is to be isolated from all others.
set -e
[ -d /sys/module/dma_bench ] || {
	echo 0 > /sys/bus/pci/drivers_autoprobe
	insmod /lib/dma_bench.ko
}
given=0
for d in /sys/bus/pci/devices/*; do
	[ $given -lt $1 ] || break
	[ $(cat $d/vendor)$(cat $d/device) = 0x12340x11e8 ] || continue
	[ -e $d/driver ] || echo ${d##*/} > /sys/bus/pci/drivers/dma_bench/bind
	given=$((given + 1))
done
[ $given = $1 ]
for d in /sys/bus/pci/drivers/dma_bench/0*; do
	[ $(ls $d/iommu_group/devices | grep -c .) = 1 ]
done
