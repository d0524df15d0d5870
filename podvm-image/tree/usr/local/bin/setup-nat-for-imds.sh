#!/bin/sh
# Lets the pod's containers reach the metadata service of the cloud (169.254.169.254) through the
# VM's own network. Off unless the image has /etc/coco/nat-for-imds: user data may hold keys.
set -eu
imds=169.254.169.254
tries=0
until ip -netns podns route get "$imds" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { echo "no route to $imds in podns within 60 s" >&2; exit 1; }
    sleep 1
done
pod=$(ip -netns podns -4 -o address show scope global | awk '{ sub("/.*", "", $4); print $4; exit }')
[ -n "$pod" ] || { echo "podns has no IPv4 address" >&2; exit 1; }
ip link show veth1 >/dev/null 2>&1 || ip link add veth1 type veth peer name veth2 netns podns
ip address replace 169.254.99.99/32 dev veth1
ip link set veth1 up
ip -netns podns link set veth2 up
echo 1 >/proc/sys/net/ipv4/conf/veth1/proxy_arp
echo 1 >/proc/sys/net/ipv4/ip_forward
ip route replace "$pod/32" dev veth1
ip -netns podns route replace 169.254.99.99/32 dev veth2
ip -netns podns route replace "$imds/32" via 169.254.99.99 dev veth2
iptables -t nat -C POSTROUTING -s "$pod/32" -d "$imds/32" -j MASQUERADE 2>/dev/null ||
    iptables -t nat -A POSTROUTING -s "$pod/32" -d "$imds/32" -j MASQUERADE
