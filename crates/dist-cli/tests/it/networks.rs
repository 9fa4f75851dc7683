//! Networks by the plugins of Debian's `containernetworking-plugins`, in a network namespace of the
//! test's own: nothing of this machine's network is touched.

use dist_testutil::{Ran, require, timed};
use serde_json::Value;

use crate::machine::Machine;

/// Runs a script that has `$dist` and `$image`, and a network of its own.
fn within(machine: &Machine, script: &str) -> Ran {
    require(&["unshare", "ip", "iptables", "/usr/lib/cni/bridge", "/usr/lib/cni/ptp"]);
    let networks = machine.dist.dir().join("networks");
    fs_err::create_dir_all(&networks).expect("make a directory for networks");
    let script = format!(
        "ip link set lo up; mount -t tmpfs plugins /var/lib; \
         dist={} image={} NETCONFPATH={}; export NETCONFPATH; {script}",
        machine.dist.binary().display(),
        machine.image,
        networks.display()
    );
    let mut command = machine.dist.clean("unshare");
    command.args(["--net", "--mount", "--propagation", "slave", "sh", "-euc", &script]);
    machine.dist.finish(command)
}

#[test]
fn containers_on_a_bridge_reach_each_other_and_leave_nothing() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ran = within(
        &machine,
        r#"
        $dist run -d --net bridge --name n1 $image \
            sh -c 'echo hello >/tmp/index.html; exec busybox httpd -f -p 8080 -h /tmp' >&2
        $dist inspect n1 | tr -d '\n'; echo
        $dist run --rm --net bridge --name n2 $image sh -c '
            until busybox wget -qO- http://10.87.0.2:8080/; do busybox sleep 0.05; done
            busybox grep n2 /etc/hosts; busybox hostname; busybox ip route | busybox grep default'
        ls /var/lib/cni/networks/bridge | grep 10.87
        ip -br link show type veth | wc -l
        $dist rm --force n1 >&2
        ls /var/lib/cni/networks/bridge | grep 10.87 || echo no addresses
        ip -br link show type veth | wc -l
        iptables -t nat -S | grep n1 || echo no rules
        ip -br link show type bridge | cut -d' ' -f1
        iptables -t nat -S | grep -v '^-P' || echo no chains
        iptables -S | grep '^-N'"#,
    )
    .ok();
    let text = ran.text();
    let mut lines = text.lines();
    let told: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(told["network"]["name"], "bridge");
    assert_eq!(told["network"]["result"]["ips"][0]["address"], "10.87.0.2/16");
    assert!(told["spec"].to_string().contains("/n1/netns"), "{}", told["spec"]["linux"]);
    let wanted = [
        "hello",
        "10.87.0.3\tn2",
        "n2",
        "default via 10.87.0.1 dev eth0 ",
        "10.87.0.2",
        "1",
        "no addresses",
        "0",
        "no rules",
        // These are the network's, and stay.
        "dist0",
        "no chains",
        "-N CNI-ADMIN",
        "-N CNI-FORWARD",
    ];
    assert_eq!(lines.collect::<Vec<_>>(), wanted, "{}", ran.stderr);
    machine.assert_clean(&["n1", "n2"]);
}

#[test]
fn networks_are_what_files_say() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let networks = machine.dist.dir().join("networks");
    fs_err::create_dir(&networks).unwrap();
    let lan = r#"{"cniVersion": "1.0.0", "name": "lan", "plugins": [{"type": "ptp", "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.9.8.0/24"}]]},
        "dns": {"nameservers": ["10.9.8.1"], "search": ["lan.test"]}}]}"#;
    fs_err::write(networks.join("10-lan.conflist"), lan).unwrap();
    let script = "busybox ip -4 addr show eth0 | busybox grep -o 'inet [0-9.]*'
        busybox cat /etc/resolv.conf";
    let ran = within(&machine, &format!("$dist run --rm --net lan $image sh -c \"{script}\"")).ok();
    assert_eq!(ran.text(), "inet 10.9.8.2\nnameserver 10.9.8.1\nsearch lan.test\n");
    machine.assert_clean(&[]);
    machine.run(&["--net", "wan"], &["sh"]).exit(125).says("host, none, ");
    machine.run(&["--net", "a/b"], &["sh"]).exit(2).says("a network's name");
    let bundle = ["oci", "bundle", "--net", "lan", &machine.image, "b"];
    machine.dist.run(&bundle).exit(2).says("only `dist run` does");
}

#[test]
fn what_a_plugin_left_half_done_is_undone() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ran = within(
        &machine,
        r#"
        mkdir plugins; cp -s /usr/lib/cni/* plugins/; rm plugins/firewall
        printf '#!/bin/sh\n[ $CNI_COMMAND = DEL ] || { echo "{\"code\":9,\"msg\":\"no rules today\"}"; exit 1; }' \
            >plugins/firewall
        chmod +x plugins/firewall
        CNI_PATH=$PWD/plugins; export CNI_PATH
        $dist run --net bridge --name x $image sh || echo code $?
        ls /var/lib/cni/networks/bridge | grep 10.87 || echo no addresses
        ip -br link show type veth | wc -l
        CNI_PATH=/nowhere $dist run --net bridge --name y $image sh || echo code $?"#,
    )
    .ok();
    assert_eq!(ran.text(), "code 125\nno addresses\n0\ncode 125\n", "{}", ran.stderr);
    let ran = ran.says("no rules today");
    ran.says("Debian's are in containernetworking-plugins");
    machine.assert_clean(&["x", "y"]);
}
