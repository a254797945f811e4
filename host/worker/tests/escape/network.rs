//! Attempts on the network, and on sockets of this machine.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use crate::attempts::{Attempt, attempt};
use crate::cell::{Got, done, reached};

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt!(Anyone, "a socket for TCP", |_| socket(libc::AF_INET, libc::SOCK_STREAM)),
    attempt!(Anyone, "a socket for UDP", |_| socket(libc::AF_INET, libc::SOCK_DGRAM)),
    attempt!(Perhaps, "a socket for TCP over IPv6", |_| socket(libc::AF_INET6, libc::SOCK_STREAM)),
    attempt!(Perhaps, "a socket for UDP over IPv6", |_| socket(libc::AF_INET6, libc::SOCK_DGRAM)),
    attempt!(Root, "a raw socket", |_| done(
        libc::SYS_socket,
        &[libc::AF_INET as usize, libc::SOCK_RAW as usize, 1]
    )),
    attempt!(Perhaps, "a socket for packets", |_| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    attempt!(Anyone, "a socket for the kernel's messages", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    attempt!(Anyone, "a socket of this machine", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    attempt!(Anyone, "a socket of this machine for datagrams", |_| socket(libc::AF_UNIX, libc::SOCK_DGRAM)),
    attempt!(Perhaps, "a socket for the hypervisor", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    attempt!(Perhaps, "a socket for the kernel's ciphers", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
    attempt!(Anyone, "a pair of sockets", |_| {
        let mut ends = [0_i32; 2];
        let family = libc::AF_UNIX as usize;
        done(libc::SYS_socketpair, &[family, libc::SOCK_DGRAM as usize, 0, ends.as_mut_ptr() as usize])
    }),
    attempt!(Anyone, "connect to an abstract socket of the host", |cell| {
        let address = SocketAddr::from_abstract_name(cell.abstract_name()).map_err(|e| e.to_string())?;
        UnixStream::connect_addr(&address).map(|_| "connected".to_owned()).map_err(|e| e.to_string())
    }),
    attempt!(Anyone, "connect to a name server by the library", |_| {
        let address: std::net::SocketAddr = "127.0.0.1:53".parse().map_err(|_| "an address")?;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        socket.connect(address).map(|()| "connected".to_owned()).map_err(|e| e.to_string())
    }),
    attempt!(Anyone, "connect its own socket elsewhere", |_| reached(libc::SYS_connect, &[0, 0, 2])),
    attempt!(Anyone, "bind its own socket", |_| reached(libc::SYS_bind, &[0, 0, 2])),
    attempt!(Anyone, "listen on its own socket", |_| reached(libc::SYS_listen, &[0, 1])),
    attempt!(Anyone, "accept on its own socket", |_| reached(libc::SYS_accept4, &[0, 0, 0, 0])),
    attempt!(Anyone, "grow its socket's buffer", |_| {
        let size = 64_i32 << 20;
        let level = libc::SOL_SOCKET as usize;
        done(libc::SYS_setsockopt, &[0, level, libc::SO_SNDBUF as usize, &raw const size as usize, 4])
    }),
    attempt!(Anyone, "send to an address", |_| {
        let address = [libc::AF_UNIX as u16, 0x6100];
        let text = b"x".as_ptr() as usize;
        reached(libc::SYS_sendto, &[0, text, 1, 0, address.as_ptr() as usize, 4])
    }),
    attempt!(Anyone, "send many messages at once", |_| reached(libc::SYS_sendmmsg, &[0, 0, 1, 0])),
    attempt!(Perhaps, "a ring of the kernel's", |_| {
        let mut parameters = [0_u32; 30];
        done(libc::SYS_io_uring_setup, &[1, parameters.as_mut_ptr() as usize])
    }),
    attempt!(Anyone, "an epoll", |_| done(libc::SYS_epoll_create1, &[0])),
];

fn socket(family: i32, kind: i32) -> Got {
    done(libc::SYS_socket, &[family as usize, kind as usize, 0])
}
