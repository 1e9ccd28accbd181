#!/bin/busybox sh
# What BusyBox's DHCP client does with a lease.

case "$1" in
deconfig)
    ip address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip address flush dev "$interface"
    ip address add "$ip/$mask" dev "$interface"
    for gateway in $router; do
        ip route add default via "$gateway" dev "$interface"
    done
    : > /etc/resolv.conf
    for server in $dns; do
        echo "nameserver $server" >> /etc/resolv.conf
    done
    ;;
esac
