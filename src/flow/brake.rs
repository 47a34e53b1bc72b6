//! Slows the copy down: after each range a pause, as long as what presses asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// No pause is longer: what presses may be over by then.
const LONGEST: Duration = Duration::from_secs(30);
/// The least share of the time that is left to work.
const LEAST_DUTY: f64 = 0.05;

/// How hard to press; shared by whoever presses and whoever yields.
#[derive(Debug, Clone, Default)]
pub struct Brake(Arc<AtomicU32>);

impl Brake {
    /// From 0, not at all, to 1, as hard as can be.
    pub fn press(&self, pressure: f64) {
        self.0.store((pressure.clamp(0.0, 1.0) * 1000.0) as u32, Ordering::Relaxed);
    }

    /// How long to rest after work that took so long.
    pub fn pause(&self, worked: Duration) -> Duration {
        let pressure = f64::from(self.0.load(Ordering::Relaxed)) / 1000.0;
        let duty = (1.0 - pressure).max(LEAST_DUTY);
        worked.mul_f64((1.0 - duty) / duty).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harder_the_longer_but_never_for_ever() {
        let (brake, second) = (Brake::default(), Duration::from_secs(1));
        assert_eq!(brake.pause(second), Duration::ZERO);
        brake.press(0.5);
        assert_eq!(brake.pause(second), second);
        brake.press(2.0);
        assert_eq!(brake.pause(second).as_secs(), 19);
        assert_eq!(brake.pause(second * 60), LONGEST);
    }
}
