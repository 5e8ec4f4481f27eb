//! Where log lines go: to journald with their fields, else to standard error.
//!
//! Whoever logs only ever puts the line into a bounded queue; a thread of its own writes it. A log
//! that takes nothing costs lines, which are counted, and never holds a cashier. Knows nothing of
//! what the lines say: to keep secrets out is the writer's duty.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::JournalLog;

use super::event::Event;
use super::strangers::{self, Kind};
use super::{clock, figures};

/// Lines that may wait: several seconds of the busiest day, in a few megabytes when all are there.
const QUEUE_LINES_MAX: usize = 4096;

/// The texts of nearly every line have room in so many bytes, and their ends in so many places.
const TEXT_BYTES: usize = 512;
const ENDS: usize = 16;

/// After a line was written, those of so long a time are gathered before the next is: to wake the
/// thread for each would cost those who log more than the line itself.
const GATHER_TIME: Duration = Duration::from_millis(2);

/// How long `flush` waits for a log that may be stuck: a dying process must not hang on it.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

/// How often a log that nobody writes to looks for suppressed lines to tell of.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Philippine time, as in everything else that a person reads here.
const MANILA: FixedOffset = match FixedOffset::east_opt(8 * 3600) {
    Some(offset) => offset,
    None => unreachable!(),
};

/// Makes this the logger of the whole process, writing to journald when systemd started it, else
/// to standard error. Fails when there is a logger already or no thread can be had.
///
/// Of other crates only warnings and errors are logged. `log::logger().flush()` is for the end: it
/// tells of lines that were suppressed, and waits, for a second at most, until everything is
/// written.
pub fn start(level: LevelFilter) -> io::Result<()> {
    let sink: Box<dyn Sink> = if systemd_journal_logger::connected_to_journal() {
        Box::new(Journal(None))
    } else {
        Box::new(io::stderr())
    };
    let queue = Queue::start(QUEUE_LINES_MAX, sink, &strangers::KINDS, LOOK_INTERVAL)?;
    log::set_boxed_logger(Box::new(queue)).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(())
}

/// A line on its way: all its texts in one buffer, because it is made by one thread and dropped by
/// another, and each allocation that changes hands may make both wait.
struct Line {
    at: DateTime<Utc>,
    level: Level,
    text: String,
    /// Where in `text` the message ends, then the target, then each key and each value.
    ends: Vec<usize>,
}

impl Line {
    fn of(record: &Record<'_>) -> Line {
        Line::new(record.level(), *record.args(), record.target(), record.key_values())
    }

    fn new(
        level: Level,
        message: fmt::Arguments<'_>,
        target: &str,
        fields: &dyn kv::Source,
    ) -> Line {
        let (text, ends) = (String::with_capacity(TEXT_BYTES), Vec::with_capacity(ENDS));
        let mut line = Line { at: clock::now(), level, text, ends };
        line.add(message);
        line.add(target);
        // Only a visitor that fails can fail here, and ours does not.
        let _ = fields.visit(&mut line);
        line
    }

    fn add(&mut self, part: impl fmt::Display) {
        // A text takes everything.
        let _ = write!(self.text, "{part}");
        self.ends.push(self.text.len());
    }

    fn part(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[number]]
    }

    fn message(&self) -> &str {
        self.part(0)
    }

    fn target(&self) -> &str {
        self.part(1)
    }

    fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        (2..self.ends.len()).step_by(2).map(|key| (self.part(key), self.part(key + 1)))
    }

    /// The line that tells of lines that were lost.
    fn about_dropped(count: u64) -> Line {
        Line::new(
            Level::Warn,
            format_args!("{count} log lines were dropped because the log could not take them"),
            module_path!(),
            &[
                (Event::FIELD, Value::from(Event::LinesDropped.name())),
                ("TILLD_DROPPED", Value::from(count)),
            ],
        )
    }

    /// The line that tells of lines that strangers caused and that were not written.
    fn about_suppressed(kind: &Kind, count: u64) -> Line {
        Line::new(
            kind.level(),
            format_args!(
                "{count} lines about {} were suppressed, {} since the start",
                kind.what(),
                kind.suppressed()
            ),
            module_path!(),
            &[
                (Event::FIELD, Value::from(Event::LinesSuppressed.name())),
                ("TILLD_SUPPRESSED", Value::from(count)),
            ],
        )
    }
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.add(key);
        self.add(value);
        Ok(())
    }
}

/// The fields as journald takes them: it finds the catalog's text by the id of the event.
impl kv::Source for Line {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        for (key, value) in self.fields() {
            visitor.visit_pair(Key::from(key), Value::from(value))?;
            if key == Event::FIELD
                && let Some(event) = Event::named(value)
            {
                visitor.visit_pair(Key::from("MESSAGE_ID"), Value::from(event.message_id()))?;
            }
        }
        Ok(())
    }
}

/// What takes lines; may block for as long as it likes.
trait Sink: Send {
    fn write(&mut self, line: &Line) -> io::Result<()>;
}

/// Journald, once it was reached. To look for it is to send to it, and a stuck one takes that as
/// little as lines: the thread may wait for it, the start of the daemon must not.
struct Journal(Option<JournalLog>);

impl Journal {
    fn reach(&mut self) -> io::Result<&JournalLog> {
        match &mut self.0 {
            Some(journal) => Ok(journal),
            unreached => {
                let journal = JournalLog::empty()?.with_syslog_identifier("tilld".to_owned());
                Ok(unreached.insert(journal))
            }
        }
    }
}

impl Sink for Journal {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        // Systemd reads standard error, too; only the fields are missing there. One that was
        // reached is found again after its restart, because each line is sent to its path.
        let Ok(journal) = self.reach() else { return Sink::write(&mut io::stderr(), line) };
        journal.journal_send(
            &Record::builder()
                .level(line.level)
                .target(line.target())
                .args(format_args!("{}", line.message()))
                .key_values(line)
                .build(),
        )
    }
}

impl Sink for io::Stderr {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        // In one piece, so that nothing else gets between.
        self.write_all(readable(line).as_bytes())
    }
}

/// Time, level and message on one line, whatever is in the message.
fn readable(line: &Line) -> String {
    let at = line.at.with_timezone(&MANILA).to_rfc3339_opts(SecondsFormat::Millis, false);
    let mut text = format!("{at} {:<5} ", line.level);
    for c in line.message().chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text.push('\n');
    text
}

/// The way from those who log to the thread that writes.
struct Queue {
    /// The lines, and how many were put in so far. One lock, so that a flush knows which number its
    /// own last line has; putting in never waits, so neither does the lock.
    entrance: Mutex<(SyncSender<Box<Line>>, u64)>,
    progress: Arc<Progress>,
    kinds: &'static [&'static Kind],
}

/// How far the thread has come.
#[derive(Default)]
struct Progress {
    /// Lines taken out of the queue and dealt with.
    done: Mutex<u64>,
    advanced: Condvar,
    /// Lines lost and not yet told of.
    dropped: AtomicU64,
}

impl Queue {
    /// `kinds` are those whose suppressed lines are told of, by a thread that looks for them in
    /// such intervals at least.
    fn start(
        lines_max: usize,
        mut sink: Box<dyn Sink>,
        kinds: &'static [&'static Kind],
        look_interval: Duration,
    ) -> io::Result<Queue> {
        let (sender, receiver) = sync_channel(lines_max);
        let progress = Arc::new(Progress::default());
        let of_thread = Arc::clone(&progress);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || of_thread.write_all(&receiver, sink.as_mut(), kinds, look_interval))?;
        Ok(Queue { entrance: Mutex::new((sender, 0)), progress, kinds })
    }

    fn put_in(&self, line: Line) {
        let line = Box::new(line);
        let mut entrance = lock(&self.entrance);
        match entrance.0.try_send(line) {
            Ok(()) => entrance.1 += 1,
            Err(_) => self.progress.drop_line(),
        }
    }
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || metadata.target().starts_with("tilld")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.put_in(Line::of(record));
        }
    }

    fn flush(&self) {
        for kind in self.kinds {
            if let Some(count) = kind.end_rush() {
                self.put_in(Line::about_suppressed(kind, count));
            }
        }
        let put_in = lock(&self.entrance).1;
        let done = lock(&self.progress.done);
        // What is not written after this time is lost, and there is nobody left to tell.
        let _ =
            self.progress.advanced.wait_timeout_while(done, FLUSH_TIME_MAX, |done| *done < put_in);
    }
}

impl Progress {
    /// Writes lines until there is nobody left who could log.
    fn write_all(
        &self,
        lines: &Receiver<Box<Line>>,
        sink: &mut dyn Sink,
        kinds: &[&Kind],
        look_interval: Duration,
    ) {
        let mut is_gathered = true;
        loop {
            let line = match lines.try_recv() {
                Ok(line) => line,
                Err(TryRecvError::Empty) => {
                    // Only when all is written: then the warning stands where the lines are
                    // missing, and a log that is short of room is not given more to take.
                    self.tell_dropped(sink);
                    self.tell_suppressed(sink, kinds);
                    if !std::mem::replace(&mut is_gathered, true) {
                        thread::sleep(GATHER_TIME);
                        continue;
                    }
                    match lines.recv_timeout(look_interval) {
                        Ok(line) => line,
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
                Err(TryRecvError::Disconnected) => return,
            };
            self.write(sink, &line);
            is_gathered = false;
            *lock(&self.done) += 1;
            self.advanced.notify_all();
        }
    }

    fn write(&self, sink: &mut dyn Sink, line: &Line) {
        if sink.write(line).is_err() {
            self.drop_line();
        }
    }

    fn drop_line(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        figures::LINES_DROPPED.count();
    }

    /// Writes one line for each rush of strangers that is over.
    fn tell_suppressed(&self, sink: &mut dyn Sink, kinds: &[&Kind]) {
        let now = clock::monotonic();
        for kind in kinds {
            if let Some(count) = kind.rush_over(now) {
                self.write(sink, &Line::about_suppressed(kind, count));
            }
        }
    }

    /// Writes one line about the lost ones; if that fails too, they stay counted.
    fn tell_dropped(&self, sink: &mut dyn Sink) {
        let count = self.dropped.load(Ordering::Relaxed);
        if count > 0 && sink.write(&Line::about_dropped(count)).is_ok() {
            self.dropped.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

/// Nothing under these locks can panic half-way, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Meets the test at the barrier before it takes a line that says so, and shows what it took.
    struct Gate {
        barrier: Arc<Barrier>,
        taken: Sender<String>,
    }

    impl Sink for Gate {
        fn write(&mut self, line: &Line) -> io::Result<()> {
            if line.message().starts_with("stuck") {
                self.barrier.wait(); // the test knows that the sink has the line
                self.barrier.wait(); // the test lets it go
            }
            let mut text = format!("{} {}", line.level, line.message());
            line.fields().for_each(|(key, value)| text.extend([" ", key, "=", value]));
            self.taken.send(text).unwrap();
            if line.message().starts_with("lost") {
                Err(io::ErrorKind::Other.into())
            } else {
                Ok(())
            }
        }
    }

    struct Stage {
        queue: Queue,
        barrier: Arc<Barrier>,
        taken: Receiver<String>,
    }

    fn stage(lines_max: usize) -> Stage {
        stage_with(lines_max, &[])
    }

    fn stage_with(lines_max: usize, kinds: &'static [&'static Kind]) -> Stage {
        let barrier = Arc::new(Barrier::new(2));
        let (sender, taken) = channel();
        let gate = Gate { barrier: Arc::clone(&barrier), taken: sender };
        let look_interval = Duration::from_millis(1);
        let queue = Queue::start(lines_max, Box::new(gate), kinds, look_interval).unwrap();
        Stage { queue, barrier, taken }
    }

    impl Stage {
        fn log(&self, message: &str) {
            self.log_as("tilld::endpoint", Level::Info, message);
        }

        fn log_as(&self, target: &str, level: Level, message: &str) {
            let args = format_args!("{message}");
            self.queue.log(&Record::builder().target(target).level(level).args(args).build());
        }
    }

    #[test]
    fn a_stuck_log_never_holds_the_caller_and_what_was_dropped_is_told_once() {
        let stage = stage(2);
        stage.log("stuck");
        stage.barrier.wait();
        for message in ["a", "b", "dropped", "dropped", "dropped"] {
            stage.log(message);
        }
        stage.barrier.wait();
        let taken: Vec<_> = stage.taken.iter().take(4).collect();
        let told = "WARN 3 log lines were dropped because the log could not take them \
                    TILLD_EVENT=lines-dropped TILLD_DROPPED=3";
        assert_eq!(taken, ["INFO stuck", "INFO a", "INFO b", told]);
        stage.log("c");
        assert_eq!(stage.taken.recv().unwrap(), "INFO c");
    }

    #[test]
    fn a_line_that_the_log_refused_counts_as_dropped() {
        let stage = stage(2);
        stage.log("lost");
        assert_eq!(stage.taken.recv().unwrap(), "INFO lost");
        assert!(stage.taken.recv().unwrap().starts_with("WARN 1 log lines were dropped"));
    }

    #[test]
    fn after_a_flush_everything_logged_before_it_is_written() {
        let stage = stage(64);
        let messages: Vec<_> = (0..64).map(|number| number.to_string()).collect();
        for message in &messages {
            stage.log(message);
        }
        stage.queue.flush();
        let taken: Vec<_> = stage.taken.try_iter().collect();
        assert_eq!(taken, messages.iter().map(|m| format!("INFO {m}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_flush_of_a_stuck_log_gives_up() {
        let stage = stage(2);
        stage.log("stuck");
        stage.barrier.wait();
        stage.queue.flush();
        assert!(stage.taken.try_recv().is_err());
        stage.barrier.wait();
    }

    #[test]
    fn of_other_crates_only_warnings_and_errors_are_logged() {
        let stage = stage(8);
        stage.log_as("rustls::conn", Level::Debug, "noise");
        stage.log_as("hyper", Level::Info, "noise");
        stage.log_as("rustls::conn", Level::Warn, "warned");
        stage.log_as("tilld::store", Level::Debug, "ours");
        stage.queue.flush();
        assert_eq!(stage.taken.try_iter().collect::<Vec<_>>(), ["WARN warned", "DEBUG ours"]);
    }

    #[test]
    fn fields_keep_their_names_and_values() {
        let stage = stage(8);
        let fields = [("TILLD_EVENT", Value::from("recorded")), ("TILLD_SEQUENCE", Value::from(7))];
        let args = format_args!("recorded");
        let record = Record::builder().target("tilld").args(args).key_values(&fields).build();
        stage.queue.log(&record);
        let taken = stage.taken.recv().unwrap();
        assert_eq!(taken, "INFO recorded TILLD_EVENT=recorded TILLD_SEQUENCE=7");
    }

    /// The fields as journald gets them.
    struct Taken(Vec<String>);

    impl<'kvs> VisitSource<'kvs> for Taken {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            self.0.push(format!("{key}={value}"));
            Ok(())
        }
    }

    #[test]
    fn journald_gets_the_message_id_of_the_event() {
        let mut taken = Taken(Vec::new());
        kv::Source::visit(&Line::about_dropped(3), &mut taken).unwrap();
        let message_id = format!("MESSAGE_ID={}", Event::LinesDropped.message_id());
        assert_eq!(taken.0, ["TILLD_EVENT=lines-dropped", &message_id, "TILLD_DROPPED=3"]);
    }

    /// A kind of which one line more came, so long ago, than is written.
    fn overrun(ago: Duration) -> &'static [&'static Kind] {
        let kind: &'static Kind =
            Box::leak(Box::new(Kind::new(Level::Warn, "strangers", "strangers")));
        let then = clock::monotonic().checked_sub(ago).expect("the machine runs for long");
        while kind.admits_line_at(then) {}
        Box::leak(Box::new([kind]))
    }

    const SUPPRESSED: &str = "WARN 1 lines about strangers were suppressed, 1 since the start \
                              TILLD_EVENT=lines-suppressed TILLD_SUPPRESSED=1";

    #[test]
    fn what_strangers_caused_is_told_also_when_nobody_logs_any_more() {
        let stage = stage_with(2, overrun(Duration::from_secs(60)));
        let told = stage.taken.recv_timeout(Duration::from_secs(20));
        assert_eq!(told.as_deref(), Ok(SUPPRESSED));
    }

    #[test]
    fn at_the_end_what_strangers_caused_last_is_told_too() {
        let stage = stage_with(2, overrun(Duration::ZERO));
        stage.log("stopped");
        stage.queue.flush();
        assert_eq!(stage.taken.try_iter().collect::<Vec<_>>(), ["INFO stopped", SUPPRESSED]);
    }

    #[test]
    fn a_line_for_people_is_one_line_in_philippine_time() {
        let fields = [("TILLD_EVENT", "x")];
        let mut line = Line::new(Level::Info, format_args!("Ñ took\n\x1b[31mit"), "", &fields);
        line.at = DateTime::from_timestamp_millis(1_795_226_400_000).unwrap();
        let expected = "2026-11-21T10:00:00.000+08:00 INFO  Ñ took\\n\\u{1b}[31mit\n";
        assert_eq!(readable(&line), expected);
    }
}
