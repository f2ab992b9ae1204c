//! The system calls that the standard library does not have: receiving and
//! sending batches of datagrams, and socket options. All of this crate's unsafe
//! code is here.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// The most datagrams that one system call takes.
pub(crate) const BATCH: usize = 64;
/// The longest query that is read; of a longer one the rest is lost, and it gets
/// a format error.
const QUERY: usize = 2048;
/// Room for one IP_PKTINFO or IPV6_PKTINFO message.
const CONTROL: usize = 64;

#[repr(align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Buffers for a batch of datagrams and what the kernel says about each. The
/// address of the sender and the address that was asked stay in it, for `send`.
pub(crate) struct Batch {
    queries: Box<[[u8; QUERY]]>,
    senders: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the pointers in `headers` are written before each system call and only
// used by it; none is kept or read in between.
unsafe impl Send for Batch {}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: both are plain C structures for which all zeroes are valid.
        let (sender, header) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Self {
            queries: vec![[0; QUERY]; BATCH].into(),
            senders: vec![sender; BATCH].into(),
            controls: vec![Control([0; CONTROL]); BATCH].into(),
            headers: vec![header; BATCH].into(),
        }
    }

    /// Waits until a datagram comes, at most for the socket's receive timeout,
    /// and takes all that are there, up to `BATCH`.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        for (index, header) in self.headers.iter_mut().enumerate() {
            parts[index].iov_base = self.queries[index].as_mut_ptr().cast();
            parts[index].iov_len = QUERY;
            let message = &mut header.msg_hdr;
            message.msg_name = ptr::from_mut(&mut self.senders[index]).cast();
            message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_iov = &raw mut parts[index];
            message.msg_iovlen = 1;
            message.msg_control = self.controls[index].0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL as _;
            message.msg_flags = 0;
            header.msg_len = 0;
        }
        // SAFETY: every header points to buffers of the lengths that it names,
        // which live and are not otherwise borrowed until the call returns.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// A datagram of the last `receive`, and who sent it; `None` when the address
    /// is of no family that we know.
    pub(crate) fn query(&self, index: usize) -> Option<(&[u8], SocketAddr)> {
        let length = (self.headers[index].msg_len as usize).min(QUERY);
        Some((&self.queries[index][..length], read_address(&self.senders[index])?))
    }

    /// Sends answers, each to the sender of the received datagram of that index
    /// and from the address to which that one came. Returns how many could not be
    /// sent.
    pub(crate) fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        answers: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> usize {
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: a plain C structure for which all zeroes are valid.
        let mut outgoing: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut count = 0;
        for (index, answer) in answers.take(BATCH) {
            parts[count].iov_base = answer.as_ptr().cast_mut().cast();
            parts[count].iov_len = answer.len();
            let received = &self.headers[index].msg_hdr;
            let control_length = received.msg_controllen;
            let message = &mut outgoing[count].msg_hdr;
            message.msg_name = ptr::from_mut(&mut self.senders[index]).cast();
            message.msg_namelen = received.msg_namelen;
            message.msg_iov = &raw mut parts[count];
            message.msg_iovlen = 1;
            if control_length > 0 {
                message.msg_control = self.controls[index].0.as_mut_ptr().cast();
                message.msg_controllen = control_length;
                clear_interface(message);
            }
            count += 1;
        }
        send_all(socket, &mut outgoing[..count])
    }
}

fn send_all(socket: BorrowedFd<'_>, mut outgoing: &mut [libc::mmsghdr]) -> usize {
    let mut unsent = 0;
    while !outgoing.is_empty() {
        // SAFETY: the headers point to addresses, buffers and control data that
        // the caller keeps alive; the kernel only reads what they point to.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                outgoing.as_mut_ptr(),
                outgoing.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        let done = match usize::try_from(result) {
            Ok(done) => done,
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => 0,
                // The socket's buffer is full, so none of the rest would fit.
                io::ErrorKind::WouldBlock => {
                    unsent += outgoing.len();
                    outgoing.len()
                }
                // The first one cannot be sent (no route, forbidden); go on.
                _ => {
                    unsent += 1;
                    1
                }
            },
        };
        outgoing = &mut outgoing[done..];
    }
    unsent
}

/// Leaves the choice of the interface to routing: the answer may have to leave
/// by another one than the query came by.
fn clear_interface(message: &mut libc::msghdr) {
    // SAFETY: `msg_control` points to `msg_controllen` bytes that the kernel
    // filled with whole control messages, aligned for their header; the walk
    // stays inside of them, and the written field lies inside the payload whose
    // type the level and type of the message tell.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(message);
        while !control.is_null() {
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(control).cast::<libc::in_pktinfo>();
                    (&raw mut (*info).ipi_ifindex).write_unaligned(0);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = libc::CMSG_DATA(control).cast::<libc::in6_pktinfo>();
                    (&raw mut (*info).ipi6_ifindex).write_unaligned(0);
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(message, control);
        }
    }
}

fn read_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, and
            // the storage is aligned and large enough for every address type.
            let v4 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let address = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(address, u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with a sockaddr_in6.
            let v6 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr).to_canonical();
            Some(SocketAddr::new(address, u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Asks the kernel to say to which address each datagram came.
pub(crate) fn want_destination(socket: BorrowedFd<'_>, local: IpAddr) -> io::Result<()> {
    match local {
        IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        IpAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Ignores path MTUs that others report: forged reports would make answers come
/// in fragments, which can be forged in turn. Answers are small enough.
pub(crate) fn ignore_path_mtu(socket: BorrowedFd<'_>, local: IpAddr) -> io::Result<()> {
    let omit = libc::IP_PMTUDISC_OMIT;
    match local {
        IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, omit),
        IpAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, omit),
    }
}

/// Raises the receive buffer past the system's limit, which only root may.
pub(crate) fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value pointer and length describe a live integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Wakes whoever waits to receive on a socket. Linux does so also for sockets
/// that are not connected, though it then reports an error.
pub(crate) fn wake(socket: BorrowedFd<'_>) {
    // SAFETY: a system call on a descriptor that is open while it is borrowed.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD) };
}
