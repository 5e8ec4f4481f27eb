//! What pages read from the books: a few at a time, on threads where that may take a while, so that
//! no page keeps a till waiting.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::domain::time::BusinessDate;
use crate::store::OpenError;
use crate::store::reader::Reader;
use crate::store::takings::Tally;

/// So many pages read at the same time: tills need the disk and the processor more.
const READERS_MAX: usize = 2;

/// So long a page waits for its turn.
const TURN_TIME_MAX: Duration = Duration::from_secs(5);

/// So long a page waits for its tallies; what is not counted then is counted for the next one.
const COUNT_TIME_MAX: Duration = Duration::from_millis(120);

/// The books, as pages read them.
pub struct Books {
    turns: Arc<Semaphore>,
    counting: Arc<Semaphore>,
    counted: Arc<Mutex<Counted>>,
}

/// Why nothing was read.
#[derive(Debug)]
pub enum Trouble {
    /// Others read, and do not come to an end.
    Busy,
    /// The books cannot be read: why.
    Unreadable(String),
}

/// What was taken on a day and on the same weekday before.
#[derive(Clone, Default)]
pub struct Counted {
    /// The day.
    pub of_day: Option<Tally>,
    /// A week before it.
    pub before: Option<Tally>,
    /// Whether all of both is counted; else it goes on.
    pub is_whole: bool,
}

impl Books {
    /// Nothing is counted yet.
    pub fn new() -> Books {
        Books {
            turns: Arc::new(Semaphore::new(READERS_MAX)),
            counting: Arc::new(Semaphore::new(1)),
            counted: Arc::default(),
        }
    }

    /// Reads the books in a state directory.
    pub async fn read<T: Send + 'static>(
        &self,
        state_dir: &Path,
        job: impl FnOnce(&Reader) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, Trouble> {
        let turn = timeout(TURN_TIME_MAX, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Trouble::Busy) };
        let state_dir = state_dir.to_owned();
        let reading = spawn_blocking(move || {
            let _turn: OwnedSemaphorePermit = turn;
            job(&Reader::open(&state_dir)?)
        });
        let read = reading.await.map_err(|error| Trouble::Unreadable(error.to_string()))?;
        read.map_err(|error| Trouble::Unreadable(error.to_string()))
    }

    /// The takings of a day and of the same weekday before, as far as they can be counted now.
    pub async fn counted(&self, state_dir: &Path, day: BusinessDate) -> Result<Counted, Trouble> {
        let counting = timeout(COUNT_TIME_MAX, async {
            let turn = Arc::clone(&self.counting).acquire_owned().await;
            let (state_dir, counted) = (state_dir.to_owned(), Arc::downgrade(&self.counted));
            spawn_blocking(move || {
                let _turn = turn;
                count(&state_dir, day, &counted)
            })
            .await
        });
        // Who is not waited for goes on counting.
        match counting.await {
            Ok(Ok(Err(error))) => return Err(Trouble::Unreadable(error.to_string())),
            Ok(Err(error)) => return Err(Trouble::Unreadable(error.to_string())),
            Ok(Ok(Ok(()))) | Err(_) => {}
        }
        let counted = locked(&self.counted).clone();
        // After midnight yesterday's are nobody's any more.
        let is_of_day = counted.of_day.as_ref().is_some_and(|tally| tally.day == day);
        Ok(if is_of_day { counted } else { Counted::default() })
    }
}

/// Goes on with both tallies until all is counted or nobody wants it any more.
fn count(
    state_dir: &Path,
    day: BusinessDate,
    shared: &Weak<Mutex<Counted>>,
) -> Result<(), OpenError> {
    let reader = Reader::open(state_dir)?;
    let Some(counted) = shared.upgrade() else { return Ok(()) };
    let Counted { of_day, before, .. } = locked(&counted).clone();
    drop(counted);
    let of = |tally: Option<Tally>, day| {
        tally.filter(|tally| tally.day == day).unwrap_or_else(|| Tally::new(day))
    };
    let (mut of_day, mut before) = (of(of_day, day), of(before, day.week_before()));
    loop {
        // One after the other, so that both grow before the first million is counted.
        let is_whole = !(reader.go_on(&mut of_day)? | reader.go_on(&mut before)?);
        let Some(counted) = shared.upgrade() else { return Ok(()) };
        *locked(&counted) =
            Counted { of_day: Some(of_day.clone()), before: Some(before.clone()), is_whole };
        if is_whole {
            return Ok(());
        }
    }
}

fn locked(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::contract::Mode;
    use crate::store::Store;
    use crate::store::backup::Backups;

    #[tokio::test]
    async fn yesterday_s_takings_are_not_today_s() {
        let state_dir = tempfile::tempdir().unwrap();
        let state_dir = state_dir.path();
        let opened = Store::open(state_dir, Mode::Live, 0, &Backups::inside(state_dir)).unwrap();
        let books = Books::new();
        for day in ["2026-11-22", "2026-11-23"] {
            let day = BusinessDate::parse(day).unwrap();
            let counted = books.counted(state_dir, day).await.unwrap();
            assert!(counted.is_whole);
            assert_eq!(counted.of_day.map(|tally| tally.day), Some(day));
            assert_eq!(counted.before.map(|tally| tally.day), Some(day.week_before()));
        }
        let turn = books.counting.acquire().await.unwrap();
        let tomorrow = BusinessDate::parse("2026-11-24").unwrap();
        let counted = books.counted(state_dir, tomorrow).await.unwrap();
        assert!(counted.of_day.is_none() && !counted.is_whole, "somebody else still counts");
        drop((turn, opened));
    }
}
