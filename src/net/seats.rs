//! Who is connected, what each connection is doing, and who leaves when others want in.
//!
//! Knows addresses and phases only, no socket and no clock: whoever entered its phase first is the
//! one that has been in it longest. The listener holds the phases' deadlines.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

/// How many connections are kept open, from the configuration; each at least 1.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all; one more may be in hand, accepted and waiting for a seat.
    pub connections_max: usize,
    /// From one address.
    pub connections_per_address_max: usize,
}

/// What strangers and callers did to the listener since its start, for the log line at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were given a seat.
    pub seated: u64,
    /// Connections dropped at once: their address had its share, all of it being answered.
    pub turned_away: u64,
    /// Connections closed because others wanted in.
    pub made_room: u64,
    /// Connections closed because a handshake, a request's head or an idle time took too long.
    pub timed_out: u64,
    /// Connections that did not speak TLS.
    pub plain: u64,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not finished its TLS handshake.
    Handshake,
    /// Nothing of a request has come, or its last response was handed over.
    Idle,
    /// A request's first byte has come, its head is not complete.
    Head,
    /// A request is with the service, which reads its body or holds its answer back.
    Body,
    /// A request is being answered. Never closed to make room, and under no deadline of ours.
    Busy,
    /// It was told to leave and takes no further request.
    Leaving,
}

/// Where a connection stands, as its deadline needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub phase: Phase,
    /// A number that differs for every phase that any connection enters.
    pub since: u64,
    /// The listener is ending.
    pub draining: bool,
}

/// All open connections.
pub(super) struct Seats {
    limits: Limits,
    table: Mutex<Table>,
    /// A seat became free or closable; only the listener's own task waits here.
    room: Notify,
}

#[derive(Default)]
struct Table {
    sitting: HashMap<u64, Sitting>,
    /// How many phases were entered so far; also what tells seats apart.
    entered: u64,
    draining: bool,
    counts: Counts,
}

struct Sitting {
    address: IpAddr,
    phase: Phase,
    since: u64,
    waker: Waker,
}

/// One connection's seat. It is free again when this is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    id: u64,
    address: IpAddr,
}

enum Offer {
    Taken(Seat),
    Wait,
    TurnedAway,
}

impl Seats {
    pub fn new(limits: Limits) -> Arc<Seats> {
        Arc::new(Seats { limits, table: Mutex::default(), room: Notify::new() })
    }

    /// A seat for a connection from this address. Where there is none, the connection that has
    /// been longest in its phase is told to leave, one of the same address when that address has
    /// its share; while all are being answered this waits. `None` when all of the address's share
    /// is being answered.
    pub async fn offer(self: &Arc<Seats>, address: IpAddr) -> Option<Seat> {
        loop {
            match self.offer_now(address) {
                Offer::Taken(seat) => return Some(seat),
                Offer::TurnedAway => return None,
                Offer::Wait => self.room.notified().await,
            }
        }
    }

    /// From now on connections see that the listener is ending. Gives how many there are.
    pub fn drain(&self) -> usize {
        let mut table = self.table();
        table.draining = true;
        table.sitting.values().for_each(|sitting| sitting.waker.wake_by_ref());
        table.sitting.len()
    }

    /// Tells every connection to leave, whatever it is doing. Gives how many there were.
    pub fn cut(&self) -> usize {
        let mut table = self.table();
        for sitting in table.sitting.values_mut() {
            sitting.leave();
        }
        table.sitting.len()
    }

    /// Returns when nobody sits any more.
    pub async fn emptied(&self) {
        while !self.table().sitting.is_empty() {
            self.room.notified().await;
        }
    }

    /// What has happened since the start.
    pub fn counts(&self) -> Counts {
        self.table().counts
    }

    fn offer_now(self: &Arc<Seats>, address: IpAddr) -> Offer {
        let mut table = self.table();
        let same_address = |sitting: &Sitting| sitting.address == address;
        let of_address = table.sitting.values().filter(|sitting| same_address(sitting)).count();
        if of_address >= self.limits.connections_per_address_max {
            if table.make_room(same_address) {
                return Offer::Wait;
            }
            table.counts.turned_away += 1;
            return Offer::TurnedAway;
        }
        if table.sitting.len() >= self.limits.connections_max {
            table.make_room(|_| true);
            return Offer::Wait;
        }
        table.counts.seated += 1;
        let id = table.enter_next();
        let waker = Waker::noop().clone();
        table.sitting.insert(id, Sitting { address, phase: Phase::Handshake, since: id, waker });
        Offer::Taken(Seat { seats: Arc::clone(self), id, address })
    }

    /// Nothing that holds this lock panics half-way through a change, so poison means nothing.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn enter_next(&mut self) -> u64 {
        self.entered += 1;
        self.entered
    }

    fn sitting_at(&mut self, id: u64) -> &mut Sitting {
        self.sitting.get_mut(&id).expect("a seat is in the table until it is dropped")
    }

    /// Tells the one that has been longest in its phase to leave, unless one of these is leaving
    /// already. False when all of them are being answered.
    fn make_room(&mut self, among: impl Fn(&Sitting) -> bool) -> bool {
        if self.sitting.values().any(|sitting| among(sitting) && sitting.phase == Phase::Leaving) {
            return true;
        }
        let closable = |sitting: &&mut Sitting| among(sitting) && sitting.phase != Phase::Busy;
        let longest = self.sitting.values_mut().filter(closable).min_by_key(|each| each.since);
        let Some(longest) = longest else { return false };
        longest.leave();
        self.counts.made_room += 1;
        true
    }
}

impl Sitting {
    fn leave(&mut self) {
        self.phase = Phase::Leaving;
        self.waker.wake_by_ref();
    }
}

impl Seat {
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Where this connection stands. The waker's task is woken when somebody else changes that.
    pub fn standing(&self, waker: &Waker) -> Standing {
        let mut table = self.seats.table();
        let draining = table.draining;
        let sitting = table.sitting_at(self.id);
        sitting.waker.clone_from(waker);
        Standing { phase: sitting.phase, since: sitting.since, draining }
    }

    /// Enters a phase; false, and nothing changed, when this connection was told to leave. A head
    /// begins in an idle time only: bytes that come while a request is answered are its body.
    pub fn enter(&self, phase: Phase) -> bool {
        let mut table = self.seats.table();
        let since = table.enter_next();
        let sitting = table.sitting_at(self.id);
        let may = match phase {
            Phase::Head => sitting.phase == Phase::Idle,
            _ => sitting.phase != Phase::Leaving,
        };
        if may {
            sitting.phase = phase;
            sitting.since = since;
            self.seats.room.notify_one();
        }
        may
    }

    /// Whether the listener is ending.
    pub fn draining(&self) -> bool {
        self.seats.table().draining
    }

    /// Counts what this connection did.
    pub fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.seats.table().counts);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.table().sitting.remove(&self.id);
        self.seats.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    const TILL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 10, 7));
    const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 10, 8));

    fn seats(connections_max: usize, connections_per_address_max: usize) -> Arc<Seats> {
        Seats::new(Limits { connections_max, connections_per_address_max })
    }

    fn seat(seats: &Arc<Seats>, address: IpAddr) -> Seat {
        match seats.offer_now(address) {
            Offer::Taken(seat) => seat,
            Offer::Wait | Offer::TurnedAway => panic!("there is no seat"),
        }
    }

    fn phase(seat: &Seat) -> Phase {
        seat.standing(Waker::noop()).phase
    }

    #[test]
    fn the_longest_in_its_phase_makes_room_whatever_the_phase() {
        let seats = seats(4, 4);
        let [handshaking, reading, idle, body] = [(); 4].map(|()| seat(&seats, STRANGER));
        reading.enter(Phase::Idle);
        reading.enter(Phase::Head);
        idle.enter(Phase::Idle);
        body.enter(Phase::Body);
        for longest in [handshaking, reading, idle, body] {
            assert!(matches!(seats.offer_now(TILL), Offer::Wait));
            assert_eq!(phase(&longest), Phase::Leaving);
            assert!(matches!(seats.offer_now(TILL), Offer::Wait), "one leaves, not two");
            drop(longest);
            std::mem::forget(seat(&seats, TILL));
        }
        assert_eq!(seats.counts().made_room, 4);
    }

    #[test]
    fn an_address_makes_room_for_itself_first() {
        let seats = seats(3, 2);
        let _till = seat(&seats, TILL);
        let [longest, other] = [(); 2].map(|()| seat(&seats, STRANGER));
        assert!(matches!(seats.offer_now(STRANGER), Offer::Wait));
        assert_eq!(phase(&longest), Phase::Leaving);
        assert_eq!(phase(&other), Phase::Handshake);
    }

    #[test]
    fn an_address_whose_share_is_being_answered_is_turned_away() {
        let seats = seats(3, 1);
        let answering = seat(&seats, STRANGER);
        answering.enter(Phase::Busy);
        let till = seat(&seats, TILL);
        assert!(matches!(seats.offer_now(STRANGER), Offer::TurnedAway));
        assert_eq!((phase(&answering), phase(&till)), (Phase::Busy, Phase::Handshake));
        assert_eq!(seats.counts().turned_away, 1);
    }

    #[tokio::test]
    async fn the_one_in_hand_waits_while_all_are_being_answered() {
        let seats = seats(1, 1);
        let answering = seat(&seats, STRANGER);
        answering.enter(Phase::Busy);
        let mut offer = std::pin::pin!(seats.offer(TILL));
        assert!(tokio::time::timeout(Duration::ZERO, offer.as_mut()).await.is_err());
        assert_eq!(phase(&answering), Phase::Busy);
        answering.enter(Phase::Idle);
        assert!(tokio::time::timeout(Duration::ZERO, offer.as_mut()).await.is_err());
        assert_eq!(phase(&answering), Phase::Leaving);
        drop(answering);
        assert_eq!(offer.await.expect("a seat").address(), TILL);
    }

    #[test]
    fn who_was_told_to_leave_takes_no_further_request() {
        let seats = seats(1, 1);
        let leaving = seat(&seats, STRANGER);
        assert!(matches!(seats.offer_now(STRANGER), Offer::Wait));
        for phase in [Phase::Idle, Phase::Head, Phase::Busy] {
            assert!(!leaving.enter(phase));
        }
    }

    #[test]
    fn bytes_of_a_body_begin_no_head() {
        let seats = seats(1, 1);
        let answering = seat(&seats, TILL);
        answering.enter(Phase::Busy);
        assert!(!answering.enter(Phase::Head));
        assert_eq!(phase(&answering), Phase::Busy);
    }
}
