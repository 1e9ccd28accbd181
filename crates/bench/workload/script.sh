# A shell script of many processes: 80 of them in each run. $1 is BusyBox; the
# commands are started as programs, not inside the shell.
i=0
while [ "$i" -lt 16 ]; do
    i=$("$1" expr "$i" + 1)
    "$1" echo "line $i" | "$1" sed s/line/row/ | "$1" wc -c
    "$1" test -e "$1"
done
