# Runs in the virtual machine, as root and as its only job: arranges the file systems, and runs pytest.
# $1 is the folder shared with the host. `settings` there holds PYTHON, ROOT, PATIENCE and pytest's arguments;
# pytest's exit code goes to `status`.
set -eu
exec 2>&1
shared=$1
. "$shared/settings"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8

say() { echo "test-vm: $*"; }

disk() {
    for block in /sys/block/vd*; do
        if [ "$(cat "$block/serial")" = "$1" ]; then
            echo "/dev/${block##*/}"
            return
        fi
    done
    say "the guest has no disk with the serial number $1" >&2
    return 1
}

# vng's root is the host's over 9p without a cache, so that every exec reads and translates its program anew.
# The same with a cache, under an overlay on the disk, takes its place: all of it may be written to, and nothing
# of that reaches the host. /tmp is the disk itself, for O_DIRECT and for limits on a device.
cd /tmp
mkdir host disk root project
mount -t 9p -o ro,trans=virtio,version=9p2000.L,access=any,cache=loose,msize=512000 host host
image=$(disk image)
mount -o noatime,noinit_itable "$image" disk
mkdir disk/upper disk/work
mkdir -m 1777 disk/tmp
mkdir -m 700 disk/tmp/home
mount -t overlay -o lowerdir=host,upperdir=disk/upper,workdir=disk/work overlay root
for tree in proc sys dev run; do
    mount --rbind "/$tree" "root/$tree"
done
mount --bind "root$ROOT" project
mount --bind disk/tmp root/tmp
mkdir -p "root$ROOT" # it may lie in the /tmp that is hidden now
mount --move project "root$ROOT"
cd root
pivot_root . .
umount -l .
cd "$ROOT"

for module in loop dm-mod bfq; do
    modprobe "$module" || say "the guest's kernel has no module $module: tests that need it will not pass"
done
SCRATCH_DISK=$(disk scratch)
export SCRATCH_DISK HOME=/tmp/home
read -r uptime _ </proc/uptime
say "booted in $uptime s: Linux $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"

# SIGINT lets pytest say which test it was in.
status=0
timeout --signal INT --kill-after 30 "$PATIENCE" "$PYTHON" -m pytest -m host --timeout 900 "$@" || status=$?
[ "$status" -ne 124 ] || say "the tests were interrupted: they still ran after $PATIENCE s"
echo "$status" >"$shared/status"
