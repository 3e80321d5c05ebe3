//! JSON objects of which only the names of the fields are read.

use std::collections::HashSet;
use std::fmt;

use meanwhile_core::Json;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// So many fields are few.
const FEW: usize = 16;

/// Any value as a JSON text.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Json {
    serde_json::value::to_raw_value(value).expect("values made here have string keys and no failing parts")
}

/// A JSON object that keeps the order of its fields and the text of their values.
#[derive(Debug, Clone, Default)]
pub struct Fields(pub(super) Vec<(String, Json)>);

impl Fields {
    /// The object in a JSON text.
    ///
    /// # Errors
    /// If the text is not an object.
    pub fn parse(text: &str) -> serde_json::Result<Fields> {
        serde_json::from_str(text)
    }

    /// The value of a field, as a text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    /// The value of a field, if it is there and reads as a `T`.
    #[must_use]
    pub fn read<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// Sets a field where it stands, or at the end.
    pub fn set(&mut self, name: &str, value: Json) {
        match self.0.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// With a field more, if it is there.
    pub(super) fn with(mut self, name: &str, value: Option<&RawValue>) -> Fields {
        self.0.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        self
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Json> {
        let place = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.remove(place).1)
    }

    /// A field that is there twice, if there is one. Readers differ in which of the two they take.
    #[must_use]
    pub fn twice(&self) -> Option<&str> {
        let names = || self.0.iter().map(|(name, _)| name.as_str());
        // Few fields are compared with each other sooner than they are hashed.
        if self.0.len() <= FEW {
            return names()
                .enumerate()
                .find(|(at, name)| names().take(*at).any(|other| other == *name))
                .map(|(_, name)| name);
        }
        let mut seen = HashSet::with_capacity(self.0.len());
        names().find(|name| !seen.insert(*name))
    }

    /// All fields, in order.
    #[must_use]
    pub fn into_entries(self) -> Vec<(String, Json)> {
        self.0
    }

    /// Whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object as a JSON text.
    #[must_use]
    pub fn to_json(&self) -> Json {
        to_json(self)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
