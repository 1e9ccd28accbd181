#!/bin/busybox sh
# The first program of the demo guest.

export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM="${TERM:-linux}"

/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
hostname ringmaster
ip link set lo up

# Drivers that came along, and the network that they make possible.
if [ -e /lib/modules/order ]; then
    while read -r module; do
        insmod "/lib/modules/$module.ko"
    done < /lib/modules/order
fi
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -i eth0 -s /etc/udhcpc.sh -n -q -t 5 -T 2 > /dev/null 2>&1 ||
        echo "ringmaster: no answer to DHCP on eth0"
fi

# The value of a word of the kernel's command line, which may be quoted.
parameter() {
    sed -n \
        -e 's/^\(.* \)\{0,1\}'"$1"'="\([^"]*\)".*$/\2/p' \
        -e 's/^\(.* \)\{0,1\}'"$1"'=\([^" ][^ ]*\).*$/\2/p' /proc/cmdline
}

# Changing a terminal's settings waits until all that was written is sent;
# powering off does not, nor does the end of what controls the terminal.
sent="stty -F /dev/console sane"

# Runs a command that controls the terminal.
attended() {
    setsid cttyhack sh -c "trap : INT; \"\$@\"; status=\$?; $sent; exit \$status" sh "$@"
}

power_off() {
    $sent
    stty -F /dev/console -echo
    poweroff -f
}

read -r uptime _ < /proc/uptime
echo "ringmaster: user space reached, Linux $(uname -r), after $uptime s"

size=$(parameter ringmaster.tty)
[ -z "$size" ] || stty -F /dev/console rows "${size%x*}" cols "${size#*x}"

command=$(parameter ringmaster.exec)
if [ -n "$command" ]; then
    cd /root
    attended sh -c "$command"
    echo "ringmaster: the command ended with status $?"
    power_off
fi

cat << 'EOF'

This is a Debian kernel with a BusyBox shell, running in Ringmaster.
  poweroff -f   powers the guest off
  Ctrl-A x      leaves at once; Ctrl-A h lists the keys

EOF
cd /root
PS1='ringmaster:\w\$ ' attended sh
echo "The shell has ended; powering off."
power_off
