#!/bin/bash
# Three hosts on one machine, for `ray up` to reach by SSH: each has namespaces of its own (network, processes, mounts, host
# name), an overlay of / as its disk, and an sshd. They share a bridge, from which no route leads out. Needs root.
#
#   LAB=folder ID=name FOLDERS=folder:folder cluster_lab.sh up | start HOST | stop HOST | wipe HOST | down
#
# LAB: the lab's files; its key, key.pub, profile (what a login shell of a host sources) and, where there is one, cache
# (copied to a host's ~/cache) are there before `up`.
# ID: begins the names of its network namespaces; ten letters at most. FOLDERS: what every host has, read-only; the first is
# its Python environment, ~/env.
set -eu
HOSTS="h0 h1 h2"
NET=10.77.0

up() {
  mkdir -p "$LAB/disks"
  mount -t tmpfs -o size=4g tmpfs "$LAB/disks"
  ip netns add "$ID"
  ip -n "$ID" link set lo up
  ip -n "$ID" link add br0 type bridge
  ip -n "$ID" addr add $NET.1/24 dev br0
  ip -n "$ID" link set br0 up
  for host in $HOSTS; do
    ip netns add "$ID-$host"
    ip -n "$ID-$host" link set lo up
    ip link add "v$host" netns "$ID" type veth peer name eth0 netns "$ID-$host"
    ip -n "$ID" link set "v$host" master br0 up
    ip -n "$ID-$host" addr add "$NET.1${host#h}/24" dev eth0
    ip -n "$ID-$host" link set eth0 up
    start "$host"
  done
}

start() {
  mkdir -p "$LAB/disks/$1/upper" "$LAB/disks/$1/work" "$LAB/disks/$1/root"
  setsid ip netns exec "$ID-$1" unshare --mount --pid --uts --ipc --fork --kill-child bash "$0" boot "$1" \
    > "$LAB/$1.log" 2>&1 < /dev/null &
  echo $! > "$LAB/$1.pid"
  # As from the reset button to the login prompt.
  for _ in $(seq 100); do
    if ip netns exec "$ID" bash -c "exec 3<> /dev/tcp/$NET.1${1#h}/22" 2> /dev/null; then return; fi
    sleep 0.1
  done
  cat "$LAB/$1.log" >&2
  exit 1
}

# As a power cut: the disk stays.
stop() {
  [ -s "$LAB/$1.pid" ] || return 0
  kill -9 -- "-$(cat "$LAB/$1.pid")" 2> /dev/null || true
  rm "$LAB/$1.pid"
  # Its init is gone with all its processes, but they end in their own time.
  for _ in $(seq 100); do
    [ -z "$(ip netns pids "$ID-$1")" ] && return
    sleep 0.1
  done
}

wipe() {
  stop "$1"
  rm -rf "${LAB:?}/disks/$1"
}

down() {
  for host in $HOSTS; do stop "$host"; done
  for name in $(ip netns list | cut -d" " -f1 | grep -E "^$ID(-h[0-9])?$"); do
    ip netns pids "$name" | xargs -r kill -9 || true
    ip netns del "$name"
  done
  umount "$LAB/disks" 2> /dev/null || umount -l "$LAB/disks" 2> /dev/null || true
}

boot() {
  local host=$1 disk=$LAB/disks/$1 root=$LAB/disks/$1/root
  mount --make-rprivate /
  mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o size=2g tmpfs "$root/dev/shm"
  mount -t tmpfs -o mode=1777,size=2g tmpfs "$root/tmp"
  # The machine's own home is no part of a host.
  local home="$root/root"
  mkdir -p "$disk/upper/home.$host"
  mount --bind "$disk/upper/home.$host" "$home"
  local folder
  for folder in ${FOLDERS//:/ }; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,ro,bind "$root$folder"
  done
  mkdir -p "$root/run/sshd" "$home/.ssh" "$root/etc/ssh"
  chmod 755 "$root/run/sshd"
  chmod 700 "$home" "$home/.ssh"
  cp "$LAB/key.pub" "$home/.ssh/authorized_keys"
  chmod 600 "$home/.ssh/authorized_keys"
  cp "$LAB/profile" "$home/.bashrc"
  cp "$LAB/profile" "$home/.profile"
  if [ -d "$LAB/cache" ]; then cp -r "$LAB/cache" "$home/cache"; fi
  ln -sfn "${FOLDERS%%:*}" "$home/env"
  rm -f "$root"/etc/ssh/ssh_host_*
  ssh-keygen -q -t ed25519 -N "" -f "$root/etc/ssh/ssh_host_ed25519_key"
  # Names that lead to 127.0.0.1 would be what ranks tell each other.
  { echo "127.0.0.1 localhost"; for name in $HOSTS; do echo "$NET.1${name#h} $name"; done; } > "$root/etc/hosts"
  hostname "$host"
  exec chroot "$root" /usr/sbin/sshd -D -e -f /dev/null -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no \
    -o UsePAM=no -o PidFile=none -o MaxStartups=100
}

"$@"
