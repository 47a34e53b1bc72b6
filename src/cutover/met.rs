//! What was in the way of a cutover so far, and whether the operator has been told.

use std::time::Duration;

use tokio::time::Instant;

use super::look::Obstacle;

/// The same thing is told again after so long.
const REMINDER: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Met {
    /// The last one last.
    obstacles: Vec<Known>,
}

struct Known {
    gist: String,
    text: String,
    told: Instant,
}

impl Met {
    /// Notes what is in the way now. Returns whether that is worth a message.
    pub(super) fn again(&mut self, obstacle: &Obstacle, now: Instant) -> bool {
        let gist = gist(&obstacle.text);
        let known = self.obstacles.iter().position(|known| known.gist == gist);
        let before = known.map(|at| self.obstacles.remove(at).told);
        let told = before.filter(|told| now - *told < REMINDER);
        let text = obstacle.text.clone();
        self.obstacles.push(Known { gist, text, told: told.unwrap_or(now) });
        told.is_none()
    }

    /// What was in the way, the last one first.
    pub(super) fn last_ones(&self) -> impl Iterator<Item = &str> {
        self.obstacles.iter().rev().map(|known| known.text.as_str())
    }
}

/// The text without its figures, seconds say, that are others each time. Process ids tell who it is.
fn gist(text: &str) -> String {
    let mut before = "";
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let is_figure = word.bytes().all(|b| b.is_ascii_digit());
        words.push(if is_figure && before != "pid" { "#" } else { word });
        before = word;
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_obstacle_is_told_once_a_minute_however_its_figures_change() {
        let start = Instant::now();
        let mut met = Met::default();
        let mut at = |seconds: u64, text: &str| {
            met.again(&Obstacle::new(text), start + Duration::from_secs(seconds))
        };
        assert!(at(0, "pid 7 bi (idle, transaction of 3 s): SELECT"));
        assert!(at(1, "4 changed keys wait"));
        assert!(!at(2, "pid 7 bi (idle, transaction of 5 s): SELECT"));
        assert!(!at(3, "612 changed keys wait"));
        assert!(at(4, "pid 8 bi (idle, transaction of 5 s): SELECT"));
        assert!(!at(59, "pid 7 bi (idle, transaction of 60 s): SELECT"));
        assert!(at(60, "pid 7 bi (idle, transaction of 63 s): SELECT"));
        let last: Vec<&str> = met.last_ones().collect();
        assert_eq!(last.len(), 3);
        assert_eq!(last[0], "pid 7 bi (idle, transaction of 63 s): SELECT");
        assert_eq!(last[2], "612 changed keys wait");
    }
}
