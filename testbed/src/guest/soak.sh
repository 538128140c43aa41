#!/bin/sh
# soak: keeps disk and mappings busy until /tmp/stop is there, then says in
# /tmp/soaked how much went well.
SIZE=4194304
CPUS=$(grep -c ^processor /proc/cpuinfo)
verify() {
	while [ ! -e /tmp/stop ]; do
		echo "1 nvme verify 0xd15c $1 $SIZE" | agent >> /tmp/soak.$1
	done
}
write() {
	i=1
	while [ ! -e /tmp/stop ]; do
		echo "1 nvme fill $i $1 $SIZE" | agent >> /tmp/soak.$1
		echo "1 nvme verify $i $1 $SIZE" | agent >> /tmp/soak.$1
		i=$((i + 1))
	done
}
# Several CPUs wait for a driver's lock with interrupts off. Where the machine has
# fewer cores than the guest has CPUs, each change of the lock's holder can take a
# time slice, and nothing else happens: so they rest between short rounds.
ROUND=500
[ $CPUS -gt 1 ] && ROUND=100
map() {
	while [ ! -e /tmp/stop ]; do
		for f in /sys/bus/pci/drivers/dma_bench/0*/bench; do
			echo $CPUS $1 both $ROUND > $f && echo mapped || echo 0 >> /tmp/soak.bad
		done >> /tmp/soak.maps
		[ $CPUS -gt 1 ] && sleep 0.2
	done
}
verify 0 &
write 20971520 &
write 29360128 &
map 65536 &
wait
errors=$(cat /tmp/soak.* | grep -c -E '^@1 err|^@panic|^0$')
disk=$(cat /tmp/soak.[0-9]* | grep -c '^@1 ok')
maps=$(grep -c mapped /tmp/soak.maps)
echo disk=$disk maps=$((maps * CPUS * ROUND)) errors=$errors > /tmp/soaked.part
busybox mv /tmp/soaked.part /tmp/soaked
