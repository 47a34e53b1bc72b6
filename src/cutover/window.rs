//! The hours in which the names may be swapped.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::pg::Session;

const DAY: u32 = 24 * 60;
/// invalid_parameter_value
const UNKNOWN_ZONE: &str = "22023";

/// What to give instead.
pub const KNOWN_ZONES: &str = "pg_timezone_names has those that it knows, as in Europe/Berlin";

/// From a minute of the day to another, perhaps over midnight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    from: u32,
    to: u32,
    /// None is the server's.
    zone: Option<String>,
}

impl FromStr for Window {
    type Err = String;

    /// `02:00-04:00`, and perhaps a time zone by a name that the server knows.
    fn from_str(text: &str) -> Result<Window, String> {
        let wrong = || "it is like 02:00-04:00, or 02:00-04:00 Europe/Berlin".to_owned();
        let mut words = text.split_whitespace();
        let (hours, zone) = (words.next().ok_or_else(wrong)?, words.next());
        let (from, to) = hours.split_once('-').ok_or_else(wrong)?;
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
            (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
        };
        let (from, to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
        if words.next().is_some() || from == to {
            return Err(wrong());
        }
        Ok(Window { from, to, zone: zone.map(str::to_owned) })
    }
}

impl Window {
    /// Whether it is open by the server's clock. Fails where the server does not know the zone.
    pub async fn is_open(&self, session: &Session) -> Result<bool> {
        let sql = "SELECT pg_catalog.date_part('hour', t.at) * 60 + pg_catalog.date_part('minute', t.at) FROM \
                   (SELECT pg_catalog.clock_timestamp() AT TIME ZONE COALESCE($1, pg_catalog.current_setting('TimeZone')) AS at) t";
        let minute: f64 = session.one(sql, &[&self.zone]).await?.get(0);
        Ok(self.has(minute as u32))
    }

    /// Fails, by name, where the server does not know the zone: such a window would never open.
    pub async fn check(&self, session: &Session) -> Result<()> {
        match (self.is_open(session).await, &self.zone) {
            (Err(e), Some(zone)) if e.sqlstate() == Some(UNKNOWN_ZONE) => Err(Error::usage(
                format!("--cutover-window: the server knows no time zone {zone:?}"),
            )
            .state("Nothing was changed")
            .next(KNOWN_ZONES)),
            (open, _) => open.map(drop),
        }
    }

    fn has(&self, minute: u32) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_over_midnight() {
        let has = |window: &str, hour: u32, minute: u32| {
            window.parse::<Window>().unwrap().has(hour * 60 + minute)
        };
        assert!(has("02:00-04:00", 2, 0) && has("02:00-04:00", 3, 59));
        assert!(!has("02:00-04:00", 4, 0) && !has("02:00-04:00", 1, 59));
        assert!(has("22:30-01:00", 23, 0) && has("22:30-01:00", 0, 59));
        assert!(!has("22:30-01:00", 1, 0) && !has("22:30-01:00", 22, 29));
        assert!(has("00:00-24:00", 0, 0) && has("00:00-24:00", 23, 59));
        let zone = "02:00-04:00 Europe/Berlin".parse::<Window>().unwrap().zone;
        assert_eq!(zone.as_deref(), Some("Europe/Berlin"));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for bad in
            ["", "2-4", "02:00", "02:00-02:00", "02:60-03:00", "25:00-26:00", "02:00-04:00 a b"]
        {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }
}
