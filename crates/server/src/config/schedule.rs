//! When something is to be done: a cron expression, in UTC.

use croner::{
    Cron,
    errors::CronError,
    time::{CivilDateTime, CronDateTime, Resolution, Weekday},
};
use std::{cmp::Ordering, str::FromStr, time::Duration};
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

/// A cron expression.
#[derive(Debug, Clone)]
pub struct Schedule(Cron);

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cron = Cron::from_str(text).map_err(|error| format!("`{text}` is not a cron expression: {error}"))?;
        let schedule = Self(cron);
        match schedule.after(OffsetDateTime::now_utc()) {
            Some(_) => Ok(schedule),
            None => Err(format!("`{text}` never comes")),
        }
    }
}

impl Schedule {
    fn after(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.0.find_next_occurrence(&Utc(now), false).ok().map(|next| next.0)
    }

    /// How long until it is next due; none: never.
    pub fn until_next(&self) -> Option<Duration> {
        let now = OffsetDateTime::now_utc();
        self.after(now).map(|next| (next - now).unsigned_abs())
    }
}

#[derive(Clone)]
struct Utc(OffsetDateTime);

fn civil(at: PrimitiveDateTime) -> CivilDateTime {
    let (hour, minute, second) = at.as_hms();
    let (year, month, day) = at.to_calendar_date();
    CivilDateTime::from_ymd_hms_opt(year, u8::from(month).into(), day.into(), hour.into(), minute.into(), second.into())
        .expect("a date and a time that exist")
}

impl CronDateTime for Utc {
    fn to_civil(&self) -> CivilDateTime {
        civil(PrimitiveDateTime::new(self.0.date(), self.0.time()))
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.0.weekday().number_days_from_sunday().into())
    }

    fn resolve_civil(&self, at: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let found = || {
            let month = u8::try_from(at.month()).ok()?.try_into().ok()?;
            let date = Date::from_calendar_date(at.year(), month, at.day().try_into().ok()?).ok()?;
            let (hour, minute, second) = (at.hour(), at.minute(), at.second());
            let time = Time::from_hms(hour.try_into().ok()?, minute.try_into().ok()?, second.try_into().ok()?).ok()?;
            Some(Self(PrimitiveDateTime::new(date, time).assume_utc()))
        };
        found().map(Resolution::Single).ok_or(CronError::InvalidDate)
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(time::Duration::seconds(seconds)).map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::format_description::well_known::Rfc3339;

    fn at(text: &str) -> OffsetDateTime {
        OffsetDateTime::parse(text, &Rfc3339).unwrap()
    }

    #[test]
    fn the_next_time_is_the_one_that_cron_means() {
        for (text, expected) in [
            ("0 2 * * *", at("2026-03-01T02:00:00Z")),
            ("*/15 * * * *", at("2026-02-28T23:45:00Z")),
            ("0 0 1 * *", at("2026-03-01T00:00:00Z")),
            ("30 4 * * MON", at("2026-03-02T04:30:00Z")),
            ("0 0 29 2 *", at("2028-02-29T00:00:00Z")),
            ("* * * * * *", at("2026-02-28T23:30:01Z")),
        ] {
            let schedule: Schedule = text.parse().unwrap();
            assert_eq!(schedule.after(at("2026-02-28T23:30:00Z")), Some(expected), "{text}");
        }
        for text in ["", "daily", "0 25 * * *", "0 0 31 2 *", "* * *"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
