#!/bin/sh
# ports: takes the serial ports of virtio from their driver and gives them back.
set -e
for d in /sys/bus/virtio/drivers/virtio_console/virtio*; do
	name=${d##*/}
	echo $name > /sys/bus/virtio/drivers/virtio_console/unbind
	echo $name > /sys/bus/virtio/drivers/virtio_console/bind
done
