//! The UDP loop: a thread with its own socket, batch after batch.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::Cache;
use socket2::{Domain, Protocol, Socket, Type};

use crate::metrics::{Counters, count};
use crate::mmsg::{self, BATCH, Batch};
use crate::rate_limit::Verdict;
use crate::respond::{self, Asker, Transport};
use crate::server::Shared;
use crate::snapshot::Snapshot;

/// How long a thread waits before it looks whether it shall stop; stopping also
/// wakes it.
const LOOK: Duration = Duration::from_secs(1);
/// After so many errors in a row a thread gives up its socket.
const MOST_ERRORS: u32 = 100;

/// Opens one of the sockets that share an address.
pub(crate) fn open(address: SocketAddr, receive_buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.ip().is_unspecified() {
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        mmsg::want_destination(socket.as_fd(), address.ip())?;
    }
    mmsg::ignore_path_mtu(socket.as_fd(), address.ip())?;
    if mmsg::force_receive_buffer(socket.as_fd(), receive_buffer).is_err() {
        socket.set_recv_buffer_size(receive_buffer)?;
    }
    socket.set_send_buffer_size(receive_buffer)?;
    socket.set_read_timeout(Some(LOOK))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Answers until the server stops.
///
/// # Errors
/// When receiving fails time after time.
pub(crate) fn run(shared: &Arc<Shared>, index: usize, socket: &UdpSocket) -> Result<(), String> {
    let mut snapshots = Cache::new(&shared.snapshot);
    let mut worker = Worker {
        shared,
        counters: &shared.counters[index],
        ticket: rand::random(),
        answers: vec![Vec::new(); BATCH],
        answered: Vec::with_capacity(BATCH),
    };
    let mut batch = Batch::new();
    let mut errors = 0;
    while !shared.stopping.load(Ordering::Relaxed) {
        match batch.receive(socket.as_fd()) {
            Ok(received) if !shared.stopping.load(Ordering::Relaxed) => {
                errors = 0;
                worker.answer(snapshots.load(), &batch, received);
                worker.send(&mut batch, socket);
            }
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ if errors < MOST_ERRORS => errors += 1,
                _ => return Err(format!("receiving DNS queries over UDP fails: {error}")),
            },
        }
    }
    Ok(())
}

struct Worker<'a> {
    shared: &'a Shared,
    counters: &'a Counters,
    ticket: u64,
    answers: Vec<Vec<u8>>,
    /// The index of the query for each answer of the batch.
    answered: Vec<usize>,
}

impl Worker<'_> {
    fn answer(&mut self, snapshot: &Snapshot, batch: &Batch, received: usize) {
        let now = crate::server::unix_seconds();
        let since_start = self.shared.started.elapsed();
        count(&self.counters.queries, received as u64);
        self.answered.clear();
        for index in 0..received {
            let Some((query, client)) = batch.query(index).filter(|(_, c)| c.port() != 0) else {
                count(&self.counters.ignored, 1);
                continue;
            };
            if self.answer_one(snapshot, query, client, now, since_start) {
                self.answered.push(index);
            }
        }
    }

    /// Writes the next answer; says whether there is one to send.
    fn answer_one(
        &mut self,
        snapshot: &Snapshot,
        query: &[u8],
        client: SocketAddr,
        now: u32,
        since_start: Duration,
    ) -> bool {
        self.ticket = self.ticket.wrapping_add(1);
        let ticket = self.ticket;
        let asker = Asker { address: client.ip(), transport: Transport::Udp, now, ticket };
        let out = &mut self.answers[self.answered.len()];
        let Some(mut outcome) = respond::respond_into(snapshot, query, &asker, out) else {
            count(&self.counters.ignored, 1);
            return false;
        };
        if let Some(limiter) = &self.shared.limiter
            && !outcome.cookie_valid
        {
            match limiter.judge(client.ip(), outcome.subject, since_start, ticket) {
                Verdict::Send => {}
                Verdict::Slip => {
                    respond::truncate(out, &mut outcome);
                    count(&self.counters.rate_slipped, 1);
                }
                Verdict::Drop => {
                    count(&self.counters.rate_dropped, 1);
                    return false;
                }
            }
        }
        self.counters.answer(&outcome);
        true
    }

    fn send(&self, batch: &mut Batch, socket: &UdpSocket) {
        let answers = self.answered.iter().zip(&self.answers);
        let unsent = batch.send(socket.as_fd(), answers.map(|(i, a)| (*i, a.as_slice())));
        if unsent > 0 {
            count(&self.counters.unsent, unsent as u64);
        }
    }
}
