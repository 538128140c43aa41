#!/bin/sh
# crash ARGUMENTS: loads the kernel at /tmp/kernel with the root file system at
# /tmp/initrd for the case that this one panics, with these arguments.
set -e
busybox chmod +x /lib/kexec /lib/ld-linux-aarch64.so.1
/lib/ld-linux-aarch64.so.1 --library-path /lib /lib/kexec -p /tmp/kernel \
	--initrd=/tmp/initrd --append="$*"
[ "$(cat /sys/kernel/kexec_crash_loaded)" = 1 ]
rm /tmp/kernel /tmp/initrd
