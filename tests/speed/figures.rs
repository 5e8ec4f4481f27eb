//! What was measured, its medians, and whether they are what was to be reached: as tables for
//! people and as JSON. Measures nothing.

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tilld::system::clock;

use crate::Outcome;
use crate::rounds::{CONNECTIONS, Plan};

pub const SYNC: &str = "(f) fdatasync of 4 KiB more, p50, µs";
pub const SYNC_OVER: &str = "fdatasync of 4 KiB over others, p50, µs";
pub const MEMORY_AT_REST: &str = "memory at rest, MB";
pub const MEMORY_AT_PEAK: &str = "memory at peak, MB";
pub const MEMORY_STOCKED: &str = "memory at peak of (c), MB";
pub const DRAIN: &str = "drain, collections/s";
pub const TILL_P99: &str = "a till's p99 during the drain, ms";
pub const SINGLE: &str = "from a till to head office, p50, ms";
pub const STOCKED_DRAIN: &str = "drain with stock, collections/s";
pub const STOCKED_TILL_P99: &str = "a till's p99 during the drain with stock, ms";
pub const STOCKED_SINGLE: &str = "from a till to head office with stock, p50, ms";
pub const READY: &str = "ready after the start, ms";

/// The endpoints, by their letters.
const ENDPOINTS: [(char, &str); 5] = [
    ('a', "empty hyper + rustls"),
    ('b', "tilld"),
    ('c', "tilld with stock"),
    ('d', "tilld, encrypted bodies"),
    ('e', "Fastify + better-sqlite3"),
];

/// Confirmations a second.
pub fn rate(endpoint: char, connections: u32) -> String {
    format!("({endpoint}) at {connections}, confirmations/s")
}

/// How long half of the answers took at the most.
pub fn p50(endpoint: char, connections: u32) -> String {
    format!("({endpoint}) at {connections}, p50, µs")
}

/// How long all answers but one in a hundred took at the most.
pub fn p99(endpoint: char, connections: u32) -> String {
    format!("({endpoint}) at {connections}, p99, µs")
}

/// Confirmations a second, each over a connection of its own.
pub fn handshakes(endpoint: char) -> String {
    format!("({endpoint}) new connection each, confirmations/s")
}

/// Everything measured, each figure once a round, in the order of its first time.
pub struct Figures {
    plan: Value,
    measured: Vec<(String, Vec<f64>)>,
}

/// Something that was to be reached.
struct Goal {
    what: &'static str,
    /// It holds for a figure that is not below, or not above.
    bound: Bound,
    /// None when it was not measured.
    figure: Option<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Figures {
    /// None yet.
    pub fn of(plan: &Plan) -> Figures {
        let plan = json!({
            "rounds": plan.rounds, "seconds of each load": plan.seconds,
            "collections in the stock": plan.stocked_rows, "backlog": plan.backlog,
            "drains": plan.drains, "collections at the start": plan.started_rows,
            "starts": plan.starts,
        });
        Figures { plan, measured: Vec::new() }
    }

    /// Notes one round's.
    pub fn add(&mut self, name: &str, figure: f64) {
        match self.measured.iter_mut().find(|(known, _)| known == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.measured.push((name.to_owned(), vec![figure])),
        }
    }

    /// Writes everything down.
    pub fn write(&self, path: &Path) -> Outcome<()> {
        let figures = self.measured.iter().map(|(name, figures)| {
            (name.clone(), json!({"median": median(figures.clone()), "rounds": figures}))
        });
        let goals = self.goals().into_iter().map(|goal| {
            json!({
                "what": goal.what, "wanted": goal.bound.to_string(), "figure": goal.figure,
                "is_reached": goal.figure.map(|figure| goal.bound.holds(figure)),
            })
        });
        let whole = json!({
            "at": clock::now().to_rfc3339(), "machine": machine(), "plan": self.plan,
            "figures": figures.collect::<Map<_, _>>(), "goals": goals.collect::<Vec<_>>(),
        });
        Ok(fs::write(path, serde_json::to_string_pretty(&whole)? + "\n")?)
    }

    fn rounds(&self, name: &str) -> &[f64] {
        self.measured.iter().find(|(known, _)| known == name).map_or(&[], |(_, figures)| figures)
    }

    /// The median of what is made of several figures of the same round each: a swing of the
    /// machine that lasts a round changes all of them.
    fn of_rounds<const N: usize>(
        &self,
        names: [&str; N],
        make: impl Fn([f64; N]) -> f64,
    ) -> Option<f64> {
        let figures = names.map(|name| self.rounds(name));
        let rounds = figures.iter().map(|figures| figures.len()).min().unwrap_or(0);
        median((0..rounds).map(|round| make(figures.map(|figures| figures[round]))).collect())
    }

    fn goals(&self) -> Vec<Goal> {
        let share = |of, to| {
            let names = [rate(of, 64), rate(to, 64)];
            self.of_rounds([&names[0], &names[1]], |[of, to]| of / to)
        };
        let tail = [p99('b', 64), p50('b', 64)];
        let alone = [p50('b', 1), p50('a', 1)];
        let beyond_syncs = self.of_rounds([&alone[0], &alone[1], SYNC], |[full, empty, sync]| {
            full - empty - 2.5 * sync
        });
        let one = |name| self.of_rounds([name], |[figure]| figure);
        let stocked = |names| self.of_rounds(names, |[with, without]| with / without);
        let goal = |what, bound, figure| Goal { what, bound, figure };
        vec![
            goal("(b) / (a), 64 connections", Bound::AtLeast(0.4), share('b', 'a')),
            goal("(b) / (e), 64 connections", Bound::AtLeast(5.0), share('b', 'e')),
            goal("(c) / (b), 64 connections", Bound::AtLeast(0.7), share('c', 'b')),
            goal("(d) / (b), 64 connections", Bound::AtLeast(0.8), share('d', 'b')),
            goal(
                "1 connection, µs: p50 of (b) - p50 of (a) - 2.5 (f)",
                Bound::AtMost(40.0),
                beyond_syncs,
            ),
            goal(
                "(b), 64 connections: p99 / p50",
                Bound::AtMost(4.0),
                self.of_rounds([&tail[0], &tail[1]], |[p99, p50]| p99 / p50),
            ),
            goal(MEMORY_AT_REST, Bound::AtMost(12.0), one(MEMORY_AT_REST)),
            goal(MEMORY_AT_PEAK, Bound::AtMost(32.0), one(MEMORY_AT_PEAK)),
            goal(READY, Bound::AtMost(100.0), one(READY)),
            goal(DRAIN, Bound::AtLeast(10_000.0), one(DRAIN)),
            goal(TILL_P99, Bound::AtMost(20.0), one(TILL_P99)),
            goal(SINGLE, Bound::AtMost(20.0), one(SINGLE)),
            goal(
                "drain with stock / without",
                Bound::AtLeast(0.7),
                stocked([STOCKED_DRAIN, DRAIN]),
            ),
            goal(
                "till's p99 with stock / without",
                Bound::AtMost(1.3),
                stocked([STOCKED_TILL_P99, TILL_P99]),
            ),
            goal(
                "to head office with stock / without",
                Bound::AtMost(1.3),
                stocked([STOCKED_SINGLE, SINGLE]),
            ),
        ]
    }

    fn median(&self, name: &str) -> String {
        median(self.rounds(name).to_vec()).map_or("-".to_owned(), short)
    }
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Bound::AtLeast(least) => figure >= least,
            Bound::AtMost(most) => figure <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::AtLeast(least) => write!(f, "≥ {least}"),
            Bound::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

/// Three tables in Markdown, so that they can go where they are told of.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}, {}\n", clock::now().format("%Y-%m-%d"), machine())?;
        writeln!(f, "| | 1: /s | p50 | p99 | 16: /s | p50 | p99 | 64: /s | p50 | p99 | new: /s |")?;
        writeln!(f, "|---|{}", "--:|".repeat(10))?;
        let mut in_table = Vec::new();
        for (letter, name) in ENDPOINTS {
            write!(f, "| ({letter}) {name} |")?;
            let of_each = |connections| {
                [rate(letter, connections), p50(letter, connections), p99(letter, connections)]
            };
            let cells = CONNECTIONS.into_iter().flat_map(of_each).chain([handshakes(letter)]);
            for cell in cells {
                write!(f, " {} |", self.median(&cell))?;
                in_table.push(cell);
            }
            writeln!(f)?;
        }
        writeln!(f, "\n| | |\n|---|--:|")?;
        for (name, _) in self.measured.iter().filter(|(name, _)| !in_table.contains(name)) {
            writeln!(f, "| {name} | {} |", self.median(name))?;
        }
        writeln!(f, "\n| to be reached | | measured | |\n|---|---|--:|---|")?;
        for Goal { what, bound, figure } in self.goals() {
            let verdict = match figure {
                None => "not measured",
                Some(figure) if bound.holds(figure) => "ok",
                Some(_) => "NOT REACHED",
            };
            writeln!(f, "| {what} | {bound} | {} | {verdict} |", figure.map_or("-".into(), short))?;
        }
        Ok(())
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

/// As many digits as mean something, thousands apart.
fn short(figure: f64) -> String {
    if figure.abs() < 100.0 {
        let places = if figure.abs() < 10.0 { 2 } else { 1 };
        return format!("{figure:.places$}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Its processor and how many of its cores, memory and kernel, as Linux tells.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models = || cpus.lines().filter(|line| line.starts_with("model name"));
    let model = models().next().and_then(|line| line.split_once(": ")).map_or("?", |(_, m)| m);
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    format!(
        "{} cores of {model}, {} GB of memory, Linux {}",
        models().count(),
        memory.unwrap_or(0) * 1024 / 1_000_000_000,
        read("/proc/sys/kernel/osrelease").trim()
    )
}
