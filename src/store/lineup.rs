//! Which lines of the tape there are: one bit for each number, because there may be millions.

/// A tape has fewer lines than this; a number beyond it is not one of ours.
const LINES_MAX: usize = 1 << 32;

/// Numbers of lines.
#[derive(Default)]
pub struct Lineup(Vec<u64>);

impl Lineup {
    /// Takes a number in.
    pub fn add(&mut self, line: i64) {
        let Some(line) = usize::try_from(line).ok().filter(|line| *line < LINES_MAX) else {
            return;
        };
        if self.0.len() <= line / 64 {
            self.0.resize(line / 64 + 1, 0);
        }
        self.0[line / 64] |= 1 << (line % 64);
    }

    /// Whether it was taken in.
    pub fn has(&self, line: i64) -> bool {
        let Ok(line) = usize::try_from(line) else { return false };
        self.0.get(line / 64).is_some_and(|bits| bits & (1 << (line % 64)) != 0)
    }
}
