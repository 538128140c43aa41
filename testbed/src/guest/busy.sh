#!/bin/sh
# busy: keeps the disk, the virtio disk and the serial ports of virtio busy until
# /tmp/stop is there, then says in /tmp/busied how much went well. Each CPU has
# users of its own, so that each queue is used, and each of them does something.
# busy disk|block|port N: one of these users.
SIZE=524288
count() {
	echo . >> /tmp/busy.$1
}
bad() {
	echo "$*" >> /tmp/busy.bad
}
disk() {
	while true; do
		echo "1 nvme verify 0xd15c $(($1 * SIZE)) $SIZE" | agent > /tmp/disk.$1
		grep -q '^@1 ok' /tmp/disk.$1 && count disk || bad disk $1 $(cat /tmp/disk.$1)
		[ ! -e /tmp/stop ] || break
	done
}
# dd with a whole share of the virtio disk; it ends with the pattern there.
share() {
	dd bs=64k count=8 "$@" 2> /dev/null
}
block() {
	share if=/dev/disk of=/tmp/pattern.$1 skip=$(($1 * 8))
	while true; do
		for source in /dev/zero /tmp/pattern.$1; do
			share if=$source of=/dev/vda seek=$(($1 * 8)) oflag=direct || bad block write $1
			share if=/dev/vda of=/tmp/read.$1 skip=$(($1 * 8)) iflag=direct || bad block read $1
			head -c $SIZE $source | busybox cmp -s - /tmp/read.$1 && count block || bad block data $1
		done
		[ ! -e /tmp/stop ] || break
	done
}
# What goes to a port comes back.
port() {
	exec 3<> $(echo /dev/vport*p$1)
	dd if=/dev/disk of=/tmp/there.$1 bs=16k count=1 skip=$1 2> /dev/null
	while true; do
		head -c 16384 <&3 > /tmp/back.$1 &
		cat /tmp/there.$1 >&3
		wait $!
		busybox cmp -s /tmp/there.$1 /tmp/back.$1 && count port || bad port $1
		[ ! -e /tmp/stop ] || break
	done
}
[ $# = 0 ] || {
	"$@"
	exit
}
for kind in disk block port; do
	echo > /tmp/busy.$kind
done
for cpu in $(grep ^processor /proc/cpuinfo | busybox cut -d: -f2); do
	taskset $(printf %x $((1 << cpu))) busy disk $cpu &
	taskset $(printf %x $((1 << cpu))) busy block $cpu &
done
busy port 1 &
busy port 30 &
wait
number() {
	grep -c . /tmp/busy.$1
}
touch /tmp/busy.bad
echo disk=$(number disk) block=$(number block) port=$(number port) bad=$(number bad) \
	$(head -n 3 /tmp/busy.bad) > /tmp/busied.part
busybox mv /tmp/busied.part /tmp/busied
