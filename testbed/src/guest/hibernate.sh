#!/bin/sh
# hibernate: writes the kernel's memory to a swap area on the disk, reads it back and
# goes on from there.
set -e
busybox mkswap /dev/swap > /dev/null
busybox swapon /dev/swap
echo 1 > /sys/power/pm_debug_messages
cat /sys/block/$(busybox readlink /dev/swap)/dev > /sys/power/resume
echo 3 > /proc/sys/vm/drop_caches
echo 0 > /sys/power/image_size
echo test_resume > /sys/power/disk
echo disk > /sys/power/state
busybox swapoff /dev/swap
dmesg | grep -q 'image restored successfully'
