//! Pods' links on a real kernel.

use super::lab::{Netns, call, on_a_node, serve_tcp};
use crate::network::links::{self, Route};
use crate::network::netlink::{Message, Socket};
use crate::network::{PodNetwork, netns};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::SockProtocol;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

#[test]
fn pods_reach_each_other_and_the_node() {
    on_a_node("pods_reach_each_other_and_the_node", |lab| {
        let (a, b) = (lab.pod("a"), lab.pod("b"));
        let _servers = (serve_tcp(&a.netns, "a", 80), serve_tcp(&b.netns, "b", 80), serve_tcp(&lab.node, "node", 81));
        let seen = |from: &Netns, to| call(from, to).map(|answer| (answer.from, answer.seen)).expect("an answer");
        let node_ip = lab.options.node_ip;
        assert_eq!(seen(&a.netns, (b.ip, 80)), ("b".into(), a.ip.to_string()));
        assert_eq!(seen(&b.netns, (a.ip, 80)), ("a".into(), b.ip.to_string()));
        assert_eq!(seen(&a.netns, (node_ip, 81)), ("node".into(), a.ip.to_string()));
        assert_eq!(seen(&lab.node, (a.ip, 80)), ("a".into(), node_ip.to_string()));
    });
}

#[test]
fn a_missing_pod_and_a_missing_service_fail_at_once() {
    on_a_node("a_missing_pod_and_a_missing_service_fail_at_once", |lab| {
        let a = lab.pod("a");
        let start = Instant::now();
        for from in [&a.netns, &lab.node] {
            for address in [Ipv4Addr::new(10, 244, 0, 99), Ipv4Addr::new(10, 244, 7, 7), Ipv4Addr::new(10, 96, 0, 99)] {
                let error = call(from, (address, 80)).expect_err("nobody has this address");
                let expected = if address.octets()[1] == 96 { ErrorKind::ConnectionRefused } else { ErrorKind::HostUnreachable };
                assert_eq!(error.kind(), expected, "{address}: {error}");
            }
        }
        assert!(start.elapsed().as_secs() < 2, "took {:?}", start.elapsed());
    });
}

#[test]
fn a_pod_cannot_reach_the_nodes_loopback() {
    on_a_node("a_pod_cannot_reach_the_nodes_loopback", |lab| {
        let a = lab.pod("a");
        let _server = serve_tcp(&lab.node, "node", 81);
        // Root in a pod (with NET_ADMIN) may send 127.0.0.2 to its router rather than to its own loopback.
        a.netns.run(|| {
            let mut socket = links::socket().expect("netlink");
            let eth0 = links::find(&mut socket, "eth0").expect("asked").expect("there").index;
            for setting in ["route_localnet", "accept_local"] {
                netns::set(&format!("ipv4/conf/all/{setting}"), "1").expect("root may");
            }
            let to = "127.0.0.2/32".parse().expect("a range");
            let mut route = Route { gateway: Some(Ipv4Addr::new(169, 254, 1, 1)), ..Route::over(to, eth0) }.message();
            // The local table is asked first.
            route.header.table = 255;
            socket.request(Message::of(RouteNetlinkMessage::NewRoute(route), links::REPLACE)).expect("a route");
        });
        let start = Instant::now();
        assert_eq!(call(&a.netns, (Ipv4Addr::new(127, 0, 0, 2), 81)).expect_err("dropped").kind(), ErrorKind::TimedOut);
        assert!(start.elapsed().as_secs() >= 2, "it left the pod");
    });
}

#[test]
fn attach_again_and_after_a_restart() {
    on_a_node("attach_again_and_after_a_restart", |lab| {
        let a = lab.pod("a");
        let b = lab.pod("b");
        let again = lab.runtime.block_on(lab.network.attach("a", &a.netns.path())).expect("attached");
        assert_eq!(again, a.ip);
        let _server = serve_tcp(&a.netns, "a", 80);
        assert_eq!(call(&b.netns, (a.ip, 80)).expect("an answer").from, "a");
        // The process starts again: a lives on, b is gone.
        let live = [("a".to_owned(), a.ip)];
        lab.network = lab.runtime.block_on(PodNetwork::open(lab.options.clone(), &live)).expect("opened");
        assert_eq!(call(&lab.node, (a.ip, 80)).expect("an answer").from, "a");
        assert!(call(&b.netns, (a.ip, 80)).is_err());
        let c = lab.pod("c");
        assert_eq!(call(&c.netns, (a.ip, 80)).expect("an answer").from, "a");
        // A sandbox made anew for the same pod keeps the address.
        let anew = Netns::new();
        assert_eq!(lab.runtime.block_on(lab.network.attach("a", &anew.path())).expect("attached"), a.ip);
        let _server = serve_tcp(&anew, "anew", 80);
        assert_eq!(call(&c.netns, (a.ip, 80)).expect("an answer").from, "anew");
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    on_a_node("a_failed_attach_leaves_nothing", |lab| {
        let before = links_of(&lab.node);
        lab.runtime.block_on(lab.network.attach("a", Path::new("/nonexistent"))).expect_err("no such namespace");
        lab.runtime.block_on(lab.network.attach("a", Path::new("/proc/self/exe"))).expect_err("no namespace");
        assert_eq!(links_of(&lab.node), before);
        assert_eq!(lab.pod("b").ip, Ipv4Addr::new(10, 244, 0, 4), "freed addresses come last");
    });
}

#[test]
fn teardown_leaves_nothing() {
    on_a_node("teardown_leaves_nothing", |lab| {
        let (_a, b) = (lab.pod("a"), lab.pod("b"));
        let mut proxy = crate::network::Proxy::open(lab.options.clone()).expect("a proxy");
        proxy.sync(crate::network::proxy::ProxyState::default()).expect("synced");
        assert_eq!(tables(&lab.node), 2);
        proxy.teardown().expect("torn down");
        lab.runtime.block_on(lab.network.detach("a")).expect("detached");
        lab.runtime.block_on(lab.network.detach("a")).expect("detached again");
        lab.runtime.block_on(lab.network.teardown()).expect("torn down");
        assert_eq!(links_of(&lab.node), ["lo"]);
        assert_eq!(links_of(&b.netns), ["lo"]);
        assert_eq!(tables(&lab.node), 0);
        let routes = lab.node.run(|| links::routes(&mut links::socket().expect("netlink")).expect("routes"));
        assert!(routes.is_empty(), "{routes:?}");
    });
}

/// Says how long an attach and a detach take; the bound is generous, since the machine may be busy.
#[test]
fn attach_is_quick() {
    on_a_node("attach_is_quick", |lab| {
        let pods: Vec<Netns> = (0..20).map(|_| Netns::new()).collect();
        let start = Instant::now();
        for (index, netns) in pods.iter().enumerate() {
            lab.runtime.block_on(lab.network.attach(&format!("pod-{index}"), &netns.path())).expect("attached");
        }
        let attach = start.elapsed() / 20;
        let start = Instant::now();
        lab.runtime.block_on(lab.network.detach("pod-0")).expect("detached");
        let one = start.elapsed();
        let start = Instant::now();
        let names: Vec<String> = (1..20).map(|index| format!("pod-{index}")).collect();
        let all = futures::future::join_all(names.iter().map(|pod| lab.network.detach(pod)));
        lab.runtime.block_on(all).into_iter().for_each(|result| result.expect("detached"));
        eprintln!("attach {attach:?}, detach {one:?}, 19 at once {:?}", start.elapsed());
        assert!(attach.as_millis() < 100, "{attach:?}");
    });
}

fn links_of(netns: &Netns) -> Vec<String> {
    netns.run(|| links::all(&mut links::socket().expect("netlink")).expect("links").into_iter().map(|link| link.name).collect())
}

/// How many nftables tables there are.
fn tables(netns: &Netns) -> usize {
    netns.run(|| {
        let mut socket = Socket::open(SockProtocol::NetlinkNetFilter).expect("netlink");
        let mut ask = Message::new((libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_GETTABLE as u16, libc::NLM_F_DUMP as u16);
        ask.header(&[libc::NFPROTO_IPV4 as u8, 0, 0, 0]);
        let mut count = 0;
        socket.dump(ask, |_| count += 1).expect("tables");
        count
    })
}
