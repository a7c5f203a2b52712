# What a container manager does, as far as systemd asks for it: a root of its own with /proc, /sys, /dev and /run, and a
# control group that is its root. Runs in the host's network namespace; $1 is the root, $2 the control group, $3 the name.
# The outer half puts itself into a new control group, so that two hosts do not share one, nor this machine's.
set -e
if [ "${4:-}" != inside ]; then
  mount --make-rprivate /
  groups=$1.cgroup
  mkdir -p "$groups"
  mount -t cgroup -o none,name=systemd cgroup "$groups"
  mkdir -p "$groups/$2"
  echo $$ >"$groups/$2/cgroup.procs"
  exec unshare --cgroup --fork --pid --kill-child --mount --uts --ipc sh "$0" "$1" "$2" "$3" inside
fi
root=$1
hostname "$3"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
mkdir "$root/sys/fs/cgroup/systemd"
mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
cd "$root"
mkdir -p mnt/machine
pivot_root . mnt/machine
exec chroot . /bin/sh -c 'umount -l /mnt/machine && exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd'
