//! Sizes, CPU shares, durations and times as the API writes them: a number, or a text with a unit.

use crate::Invalid;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeMap, fmt, time::Duration};
use time::OffsetDateTime;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{OneOfBuilder, RefOr, Schema, schema::ObjectBuilder, schema::Type},
};

fn number_or_text(number: Type, description: &str, examples: [serde_json::Value; 2]) -> RefOr<Schema> {
    OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::String))
        .item(ObjectBuilder::new().schema_type(number))
        .description(Some(description))
        .examples(examples)
        .into()
}

/// Bytes: `1048576`, `"512Mi"`, `"1g"`. Units are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("bytes as a whole number or a text such as \"512Mi\"")
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Bytes, E> {
                Err(E::invalid_value(de::Unexpected::Signed(v), &self))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Bytes, E> {
                csb_types::parse_bytes(v).map(Bytes).map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl ToSchema for Bytes {}
impl PartialSchema for Bytes {
    fn schema() -> RefOr<Schema> {
        number_or_text(Type::Integer, "Bytes, or a text with a unit of 1024", ["512Mi".into(), 1_048_576.into()])
    }
}

/// A CPU share: `1`, `0.5`, `"500m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// Thousandths of one CPU.
    pub milli: u32,
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(f64::from(self.milli) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Cpus;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("CPUs as a number or a text such as \"0.5\" or \"500m\"")
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Cpus, E> {
                self.visit_f64(v as f64)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Cpus, E> {
                self.visit_f64(v as f64)
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Cpus, E> {
                let milli = (v * 1000.0).round();
                if !(0.0..=f64::from(u32::MAX)).contains(&milli) {
                    return Err(E::invalid_value(de::Unexpected::Float(v), &self));
                }
                Ok(Cpus { milli: milli as u32 })
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Cpus, E> {
                csb_types::parse_cpus(v).map(|milli| Cpus { milli }).map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl ToSchema for Cpus {}
impl PartialSchema for Cpus {
    fn schema() -> RefOr<Schema> {
        number_or_text(Type::Number, "CPUs", ["500m".into(), 1.into()])
    }
}

/// Seconds as a number, fractions allowed. Any finite number is read; `duration` says whether it can be meant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl Seconds {
    /// As a duration between `least` and `most`; the message of the error starts with the field's name.
    pub fn duration(self, field: &str, least: Duration, most: Duration) -> Result<Duration, Invalid> {
        let given = Duration::try_from_secs_f64(self.0).ok().filter(|d| (least..=most).contains(d));
        given.ok_or_else(|| {
            Invalid::new(format!(
                "{field} = {} is not valid: it is between {} and {}",
                self.0,
                spoken(least),
                spoken(most)
            ))
        })
    }
}

impl From<Duration> for Seconds {
    fn from(duration: Duration) -> Self {
        Self(duration.as_secs_f64())
    }
}

impl ToSchema for Seconds {}
impl PartialSchema for Seconds {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .description(Some("Seconds, fractions allowed; more than zero"))
            .examples([serde_json::json!(30)])
            .into()
    }
}

fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        s if s % 86400 == 0 => format!("{} days", s / 86400),
        s => format!("{s} seconds"),
    }
}

/// Milliseconds since 1970 as a time in UTC.
pub fn time_from_ms(ms: i64) -> OffsetDateTime {
    // Out of the range of years that the type holds only if a clock is absurd; the epoch is then as good as any.
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// RFC 3339 with milliseconds, UTC: `2026-01-02T03:04:05.678Z`.
pub mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _, ser::Error as _};
    use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

    fn text(time: OffsetDateTime) -> Result<String, time::error::Format> {
        let time = time.to_offset(UtcOffset::UTC);
        time.replace_nanosecond(time.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(time).format(&Rfc3339)
    }

    /// Writes a time.
    pub fn serialize<S: Serializer>(time: &OffsetDateTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&text(*time).map_err(S::Error::custom)?)
    }

    /// Reads a time.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<OffsetDateTime, D::Error> {
        OffsetDateTime::parse(&String::deserialize(d)?, &Rfc3339).map_err(D::Error::custom)
    }

    /// The same for a time that may be absent.
    pub mod option {
        use super::*;

        /// Writes a time or null.
        pub fn serialize<S: Serializer>(time: &Option<OffsetDateTime>, s: S) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, s),
                None => s.serialize_none(),
            }
        }

        /// Reads a time or null.
        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<OffsetDateTime>, D::Error> {
            let text = Option::<String>::deserialize(d)?;
            text.map(|t| OffsetDateTime::parse(&t, &Rfc3339).map_err(D::Error::custom)).transpose()
        }
    }
}

/// A JSON object. Serde alone would take a list for a struct, its items for the fields in order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }
        d.deserialize_any(Visitor(std::marker::PhantomData))
    }
}

/// For a field that is an object or absent.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(d)?.map(|o| o.0))
}

/// Names with their values, each once. Serde alone would keep the last of those with the same name.
struct Distinct(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Distinct;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object whose values are texts")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Distinct, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, value)) = entries.next_entry::<String, String>()? {
                    if map.contains_key(&name) {
                        let shown: String = name.chars().take(64).collect();
                        return Err(de::Error::custom(format_args!("duplicate name `{shown}`")));
                    }
                    map.insert(name, value);
                }
                Ok(Distinct(map))
            }
        }
        d.deserialize_map(Visitor)
    }
}

/// For a field that is absent or holds names with values.
pub(crate) fn distinct<'de, D: Deserializer<'de>>(d: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    Ok(Option::<Distinct>::deserialize(d)?.map(|distinct| distinct.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_numbers_or_texts() {
        let bytes = |json: &str| serde_json::from_str::<Bytes>(json).map(|b| b.0);
        assert_eq!(bytes("77").unwrap(), 77);
        assert_eq!(bytes("\"512Mi\"").unwrap(), 512 << 20);
        for bad in ["-1", "1.5", "true", "null", "\"12 parsecs\"", "[]"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        let cpus = |json: &str| serde_json::from_str::<Cpus>(json).map(|c| c.milli);
        assert_eq!(cpus("1").unwrap(), 1000);
        assert_eq!(cpus("0.5").unwrap(), 500);
        assert_eq!(cpus("\"1\"").unwrap(), 1000);
        for bad in ["-1", "1e300", "\"two\"", "{}"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timeout_that_cannot_be_meant_is_refused_with_its_bounds() {
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(7 * 86400));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 31_536_000.0, 1e-9] {
            let error = Seconds(bad).duration("timeout", least, most).unwrap_err();
            assert!(error.message.contains("between 1 ms and 7 days"), "{}", error.message);
        }
        assert_eq!(Seconds(1.5).duration("timeout", least, most).unwrap(), Duration::from_millis(1500));
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        #[derive(Serialize)]
        struct T(#[serde(with = "rfc3339")] OffsetDateTime);
        assert_eq!(serde_json::to_string(&T(time_from_ms(1_700_000_000_123))).unwrap(), "\"2023-11-14T22:13:20.123Z\"");
    }
}
