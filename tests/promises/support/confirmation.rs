//! Confirmations to send: the nine published fields in their order, each of which a test may
//! change, take out, double or write as text that is no value at all.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::TimeDelta;
use serde_json::Value;
use tilld::domain::time::AcceptedAt;
use tilld::system::clock;

use super::{SKYPAY, SKYPAY_KEY, TILL_7, TILL_7_KEY};

/// The fields in sending order; values are JSON texts, so that a number keeps its digits.
#[derive(Clone, Debug)]
pub struct Confirmation(Vec<(String, String)>);

impl Confirmation {
    /// A valid confirmation by the published caller that no test of this process has used.
    pub fn fresh() -> Confirmation {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        Self::numbered(COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// The same, with contract and receipt made of `number`.
    pub fn numbered(number: u32) -> Confirmation {
        Confirmation(Vec::new())
            .by(SKYPAY, SKYPAY_KEY)
            .with("action", "collectionCollect")
            .with("contractNumber", format!("SKY01{number:08}"))
            .with("amount", "3900.00")
            .with("phone", "09270348095")
            .with("receiptNumber", format!("R-{number:08}"))
            .with("collectedTime", wire_time(TimeDelta::zero()))
            .with("payChannel", "1")
    }

    /// Sent by this caller with this key.
    pub fn by(self, user_name: &str, key: &str) -> Confirmation {
        self.with("userName", user_name).with("authentication", key)
    }

    /// Sent by the till.
    pub fn by_till(self) -> Confirmation {
        self.by(TILL_7, TILL_7_KEY)
    }

    /// Sets a field; a new one goes to the end.
    pub fn with(self, name: &str, value: impl Into<Value>) -> Confirmation {
        self.raw(name, value.into().to_string())
    }

    /// Sets a field to a JSON text as it stands.
    pub fn raw(mut self, name: &str, text: impl Into<String>) -> Confirmation {
        match self.0.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = text.into(),
            None => self.0.push((name.to_owned(), text.into())),
        }
        self
    }

    /// Adds a field even if one of that name is there already.
    pub fn again(mut self, name: &str, text: &str) -> Confirmation {
        self.0.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Takes a field out.
    pub fn without(mut self, name: &str) -> Confirmation {
        self.0.retain(|(field, _)| field != name);
        self
    }

    /// Gives a field another name.
    pub fn renamed(mut self, name: &str, new: &str) -> Confirmation {
        for (field, _) in &mut self.0 {
            if field == name {
                new.clone_into(field);
            }
        }
        self
    }

    /// The value of a field that is a JSON string.
    pub fn get(&self, name: &str) -> String {
        let field = self.0.iter().find(|(field, _)| field == name);
        let (_, text) = field.unwrap_or_else(|| panic!("no field {name}"));
        serde_json::from_str(text).unwrap_or_else(|_| panic!("{name} is no string: {text}"))
    }

    /// The body.
    pub fn text(&self) -> String {
        let fields: Vec<String> =
            self.0.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

/// A time on the wire, this far from now.
pub fn wire_time(from_now: TimeDelta) -> String {
    AcceptedAt::new(clock::now() + from_now).wall_clock()
}

/// A time on the wire as the books print it for machines.
pub fn with_offset(time: &str) -> String {
    format!("{}+08:00", time.replace(' ', "T"))
}
