#!/bin/bash
# machine.sh DIR: makes a machine out of this one's files and becomes its systemd, which runs DIR/checks.sh and ends.
# Called in fresh namespaces by package.rs.
set -euo pipefail

dir=$1
mount --make-rprivate /
over=$dir/over
mkdir "$over"
mount -t tmpfs none "$over"
mkdir "$over/upper" "$over/work" "$over/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$over/upper,workdir=$over/work" "$over/root"
root=$over/root

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs none "$root/sys/fs/cgroup"
mount -t cgroup2 none "$root/sys/fs/cgroup"
for folder in run tmp dev; do
    mount -t tmpfs none "$root/$folder" -o mode=755
done
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts" "$root/dev/mqueue" "$root/dev/hugepages"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/lab"
mount --bind "$dir" "$root/lab"

# Databases that packages have rebuilt are of no use here.
rm -f "$root/var/lib/man-db/auto-update"
# Images of containers forbid maintainer scripts to start and stop services; this machine has a service manager.
rm -f "$root/usr/sbin/policy-rc.d"
# Nothing of this machine's own services, nor of a gate that it may have.
rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/tidegate" "$root/var/lib/tidegate" "$root/var/log/tidegate"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
cat >"$root/etc/systemd/system/checks.service" <<'UNIT'
[Unit]
After=basic.target
Requires=basic.target
SuccessAction=exit
SuccessActionExitStatus=0
FailureAction=exit
FailureActionExitStatus=1
[Service]
Type=oneshot
ExecStart=/bin/bash /lab/checks.sh
StandardOutput=file:/lab/checks.log
StandardError=inherit
TimeoutStartSec=570
UNIT
mkdir "$root/old"
cd "$root"
pivot_root . old
# systemd in a container leaves it to whoever made that to share its mounts, and passes credentials by shared ones.
exec chroot . bash -c 'umount --lazy /old && mount --make-rshared / && exec "$@"' - env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=checks.service --show-status=no --log-target=console --log-level=warning
