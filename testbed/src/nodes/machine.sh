# What a machine does when it is switched on. It runs as process 1 of namespaces of its own (network, mounts, processes,
# names): whatever it starts, mounts or configures is gone when it is.
#
# DIRECTORY  its files          TOOLS    where containerd, runc, iptables and their libraries are
# NAME       its name           NODES    where kubelet and kube-proxy are
# ADDRESS    of this machine    ROUTES   "<pods' network> <machine's address>" of the others, one a line
# GATEWAY    of the switch's other end, where the API server is
set -eu
mount --make-rprivate /
hostname "$NAME"
# Places that kubelet, containerd and iptables use whatever they are told.
for place in /var/lib /var/log /run; do mount -t tmpfs machine "$place"; done
mkdir -p /var/lib/kubelet /var/log/containers /run/lock "$DIRECTORY/bin"
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -sf "$TOOLS/usr/sbin/xtables-nft-multi" "$DIRECTORY/bin/$name"
done
export PATH="$DIRECTORY/bin:$TOOLS/usr/sbin:$TOOLS/usr/bin:$NODES:$PATH"
export LD_LIBRARY_PATH="$TOOLS/usr/lib/$(uname -m)-linux-gnu" XTABLES_LIBDIR="$TOOLS/usr/lib/$(uname -m)-linux-gnu/xtables"

# The cable is plugged in from outside.
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip link set lo up
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
echo "$ROUTES" | while read -r network machine; do
    [ -z "$network" ] || ip route add "$network" via "$machine"
done
echo 1 >/proc/sys/net/ipv4/ip_forward
# Else packets between pods of one machine pass the bridge without being translated back from a Service's address.
[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

containerd --config "$DIRECTORY/containerd.toml" >"$DIRECTORY/containerd.log" 2>&1 &
until [ -S "$DIRECTORY/containerd.sock" ]; do sleep 0.02; done
for image in "$DIRECTORY"/images/*.tar; do
    ctr --address "$DIRECTORY/containerd.sock" --namespace k8s.io images import "$image" >>"$DIRECTORY/images.log" 2>&1
done
kube-proxy --config "$DIRECTORY/kube-proxy.yaml" >"$DIRECTORY/kube-proxy.log" 2>&1 &
echo up
# The kubelet comes back whenever it has ended, as an init system brings it back, unless a file says that it shall not.
while :; do
    while [ -e "$DIRECTORY/kubelet.off" ]; do sleep 0.1; done
    kubelet --config "$DIRECTORY/kubelet.yaml" --kubeconfig "$DIRECTORY/kubelet.kubeconfig" \
        --root-dir "$DIRECTORY/kubelet" --cert-dir "$DIRECTORY/kubelet-certs" \
        --hostname-override "$NAME" --node-ip "$ADDRESS" >>"$DIRECTORY/kubelet.log" 2>&1 || :
    sleep 0.2
done
