//! From any serialisable value to JSON, without losing anything silently.
//!
//! `serde_json::to_value` would do, but it turns NaN and the infinities into null, and of two equal names in one map it
//! keeps the last. In a key either would be a lie.

use std::fmt::Display;

use serde::{Serialize, ser};
use serde_json::{Map, Number, Value};

use crate::KeyError;

/// `value` as JSON; `path` says in errors where it is. Single-precision floats are widened exactly.
pub(crate) fn to_json(path: &str, value: &(impl Serialize + ?Sized)) -> Result<Value, KeyError> {
    value.serialize(ToJson { path: path.to_owned() }).map_err(|error| match error {
        // A type's own complaint does not know where it stands.
        KeyError::Unserializable { path: inner, reason } if inner.is_empty() => {
            KeyError::Unserializable { path: path.to_owned(), reason }
        }
        other => other,
    })
}

/// Serialises one value that stands at `path`.
struct ToJson {
    path: String,
}

/// A list under construction; `variant` is the name to wrap it in, for an enum's tuple.
struct ListToJson {
    path: String,
    variant: Option<&'static str>,
    values: Vec<Value>,
}

/// A map under construction; `name` is the one whose value comes next.
struct MapToJson {
    path: String,
    variant: Option<&'static str>,
    name: String,
    map: Map<String, Value>,
}

fn wrap(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        Some(name) => Value::Object(Map::from_iter([(name.to_owned(), value)])),
        None => value,
    }
}

impl ser::Error for KeyError {
    fn custom<T: Display>(message: T) -> KeyError {
        KeyError::Unserializable { path: String::new(), reason: message.to_string() }
    }
}

impl ToJson {
    fn list(self, variant: Option<&'static str>) -> ListToJson {
        ListToJson { path: self.path, variant, values: Vec::new() }
    }

    fn map(self, variant: Option<&'static str>) -> MapToJson {
        MapToJson { path: self.path, variant, name: String::new(), map: Map::new() }
    }

    fn float(self, value: f64) -> Result<Value, KeyError> {
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(KeyError::NotFinite { path: self.path, value }),
        }
    }
}

impl ser::Serializer for ToJson {
    type Ok = Value;
    type Error = KeyError;
    type SerializeSeq = ListToJson;
    type SerializeTuple = ListToJson;
    type SerializeTupleStruct = ListToJson;
    type SerializeTupleVariant = ListToJson;
    type SerializeMap = MapToJson;
    type SerializeStruct = MapToJson;
    type SerializeStructVariant = MapToJson;

    fn serialize_bool(self, value: bool) -> Result<Value, KeyError> {
        Ok(Value::Bool(value))
    }
    fn serialize_i8(self, value: i8) -> Result<Value, KeyError> {
        self.serialize_i64(value.into())
    }
    fn serialize_i16(self, value: i16) -> Result<Value, KeyError> {
        self.serialize_i64(value.into())
    }
    fn serialize_i32(self, value: i32) -> Result<Value, KeyError> {
        self.serialize_i64(value.into())
    }
    fn serialize_i64(self, value: i64) -> Result<Value, KeyError> {
        Ok(Value::from(value))
    }
    fn serialize_i128(self, value: i128) -> Result<Value, KeyError> {
        match (u64::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => Ok(Value::from(value)),
            (_, Ok(value)) => Ok(Value::from(value)),
            _ => Err(KeyError::TooLarge { path: self.path, value: value.to_string() }),
        }
    }
    fn serialize_u8(self, value: u8) -> Result<Value, KeyError> {
        self.serialize_u64(value.into())
    }
    fn serialize_u16(self, value: u16) -> Result<Value, KeyError> {
        self.serialize_u64(value.into())
    }
    fn serialize_u32(self, value: u32) -> Result<Value, KeyError> {
        self.serialize_u64(value.into())
    }
    fn serialize_u64(self, value: u64) -> Result<Value, KeyError> {
        Ok(Value::from(value))
    }
    fn serialize_u128(self, value: u128) -> Result<Value, KeyError> {
        match u64::try_from(value) {
            Ok(value) => Ok(Value::from(value)),
            Err(_) => Err(KeyError::TooLarge { path: self.path, value: value.to_string() }),
        }
    }
    fn serialize_f32(self, value: f32) -> Result<Value, KeyError> {
        self.float(value.into())
    }
    fn serialize_f64(self, value: f64) -> Result<Value, KeyError> {
        self.float(value)
    }
    fn serialize_char(self, value: char) -> Result<Value, KeyError> {
        Ok(Value::String(value.to_string()))
    }
    fn serialize_str(self, value: &str) -> Result<Value, KeyError> {
        Ok(Value::String(value.to_owned()))
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<Value, KeyError> {
        Ok(Value::from(value))
    }
    fn serialize_none(self) -> Result<Value, KeyError> {
        Ok(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, KeyError> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Value, KeyError> {
        Ok(Value::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, KeyError> {
        Ok(Value::Null)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value, KeyError> {
        Ok(Value::String(variant.to_owned()))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Value, KeyError> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, KeyError> {
        let path = format!("{}.{variant}", self.path);
        Ok(wrap(Some(variant), value.serialize(ToJson { path })?))
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<ListToJson, KeyError> {
        Ok(self.list(None))
    }
    fn serialize_tuple(self, _: usize) -> Result<ListToJson, KeyError> {
        Ok(self.list(None))
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<ListToJson, KeyError> {
        Ok(self.list(None))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<ListToJson, KeyError> {
        Ok(self.list(Some(variant)))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<MapToJson, KeyError> {
        Ok(self.map(None))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<MapToJson, KeyError> {
        Ok(self.map(None))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<MapToJson, KeyError> {
        Ok(self.map(Some(variant)))
    }
}

impl ListToJson {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), KeyError> {
        let path = format!("{}[{}]", self.path, self.values.len());
        self.values.push(to_json(&path, value)?);
        Ok(())
    }

    fn finish(self) -> Result<Value, KeyError> {
        Ok(wrap(self.variant, Value::Array(self.values)))
    }
}

impl MapToJson {
    fn insert<T: Serialize + ?Sized>(&mut self, name: String, value: &T) -> Result<(), KeyError> {
        let path = format!("{}.{name}", self.path);
        let value = to_json(&path, value)?;
        match self.map.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(KeyError::Twice { path }),
        }
    }

    fn finish(self) -> Result<Value, KeyError> {
        Ok(wrap(self.variant, Value::Object(self.map)))
    }
}

/// The list-like constructions of serde differ by name only.
macro_rules! lists {
    ($($construction:ident $element:ident),*) => { $(
        impl ser::$construction for ListToJson {
            type Ok = Value;
            type Error = KeyError;
            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), KeyError> {
                self.push(value)
            }
            fn end(self) -> Result<Value, KeyError> {
                self.finish()
            }
        }
    )* };
}
lists!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

/// And so do the struct-like ones.
macro_rules! structs {
    ($($construction:ident),*) => { $(
        impl ser::$construction for MapToJson {
            type Ok = Value;
            type Error = KeyError;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), KeyError> {
                self.insert(name.to_owned(), value)
            }
            fn end(self) -> Result<Value, KeyError> {
                self.finish()
            }
        }
    )* };
}
structs!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for MapToJson {
    type Ok = Value;
    type Error = KeyError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, name: &T) -> Result<(), KeyError> {
        self.name = match to_json(&self.path, name)? {
            Value::String(text) => text,
            Value::Bool(value) => value.to_string(),
            Value::Number(number) if !number.is_f64() => number.to_string(),
            _ => return Err(KeyError::BadName { path: self.path.clone() }),
        };
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), KeyError> {
        let name = std::mem::take(&mut self.name);
        self.insert(name, value)
    }

    fn end(self) -> Result<Value, KeyError> {
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    enum Optimizer {
        Sgd,
        Adam { weight_decay: f32 },
        Scaled(f64, i8),
        Named(&'static str),
    }

    #[test]
    fn it_agrees_with_serde_json_where_nothing_is_lost() {
        #[derive(Serialize)]
        struct All(Vec<Optimizer>, Option<u8>, Option<()>, char, (i64, u64), std::collections::BTreeMap<u8, f32>);
        let all = All(
            vec![
                Optimizer::Sgd,
                Optimizer::Adam { weight_decay: 0.1 },
                Optimizer::Scaled(-0.0, -3),
                Optimizer::Named("x"),
            ],
            None,
            Some(()),
            'é',
            (i64::MIN, u64::MAX),
            [(7, 0.5)].into(),
        );
        assert_eq!(to_json("all", &all).unwrap(), serde_json::to_value(&all).unwrap());
    }

    #[test]
    fn a_float_that_is_not_finite_is_refused_with_its_path() {
        let error = to_json("train", &[Optimizer::Adam { weight_decay: f32::NAN }]);
        assert!(
            matches!(&error, Err(KeyError::NotFinite { path, value }) if path == "train[0].weight_decay" && value.is_nan()),
            "{error:?}"
        );
        assert!(to_json("scale", &Optimizer::Scaled(f64::INFINITY, 0)).is_err());
        assert!(to_json("scale", &Some(f64::NEG_INFINITY)).is_err());
    }

    #[test]
    fn no_name_hides_another_and_no_float_is_a_name() {
        struct Pairs(Vec<(&'static str, u8)>);
        impl Serialize for Pairs {
            fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|pair| (pair.0, pair.1)))
            }
        }
        let twice = to_json("map", &Pairs(vec![("a", 1), ("a", 2)]));
        assert_eq!(twice, Err(KeyError::Twice { path: "map.a".to_owned() }));
        let unit = std::collections::BTreeMap::from([((), 1)]);
        assert_eq!(to_json("map", &unit), Err(KeyError::BadName { path: "map".to_owned() }));
    }
}
