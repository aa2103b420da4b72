//! Request bodies: JSON objects and forms, read field by field, so that a problem names the field and never its value.

use std::borrow::Cow;

use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::event::Request;
use super::problem::Problem;

/// Longest field, in bytes.
pub const FIELD_LIMIT: usize = 4 * 1024;

/// The fields of a body.
#[derive(Debug)]
pub struct Fields {
    fields: Map<String, Value>,
    /// Whether they came as a form.
    pub is_form: bool,
}

impl Fields {
    /// Reads a JSON object. An empty body has no fields.
    pub fn json(request: &Request) -> Result<Self, Problem> {
        let body = request.body()?;
        if body.is_empty() {
            return Ok(Self { fields: Map::new(), is_form: false });
        }
        match request.media_type().as_deref() {
            None | Some("application/json") => Self::from_json(&body),
            Some(_) => Err(Problem::unsupported_media_type("send application/json")),
        }
    }

    /// Reads a JSON object or a form. An empty body is a problem.
    pub fn json_or_form(request: &Request) -> Result<Self, Problem> {
        let body = request.body()?;
        if body.is_empty() {
            return Err(Problem::invalid_request("the body is empty"));
        }
        match request.media_type().as_deref() {
            None | Some("application/json") => Self::from_json(&body),
            Some("application/x-www-form-urlencoded") => Self::from_form(&body),
            Some(_) => {
                Err(Problem::unsupported_media_type("send application/json or application/x-www-form-urlencoded"))
            }
        }
    }

    fn from_json(body: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self { fields, is_form: false }),
            Ok(_) => Err(Problem::invalid_request("the body is not a JSON object")),
            Err(_) => Err(Problem::invalid_request("the body is not JSON")),
        }
    }

    fn from_form(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Map::new();
        for (name, value) in form_urlencoded::parse(body) {
            // of a field that comes twice nobody can say which one is meant; where it is read, that is an error
            match fields.entry(name) {
                Entry::Vacant(field) => drop(field.insert(Value::String(value.into_owned()))),
                Entry::Occupied(mut field) => drop(field.insert(Value::Bool(true))),
            }
        }
        Ok(Self { fields, is_form: true })
    }

    /// Whether the body has this field, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// A text that must be there.
    pub fn text(&self, name: &'static str) -> Result<&str, Problem> {
        self.optional_text(name)?.ok_or_else(|| Problem::invalid_request(format!("{name} is missing")))
    }

    /// A text that may be absent or null.
    pub fn optional_text(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => check_text(Cow::Borrowed(name), text).map(Some),
            Some(_) => Err(Problem::invalid_request(format!("{name} must be a string"))),
        }
    }

    /// `true`, `false`, or absent, which is `false`.
    pub fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Problem::invalid_request(format!("{name} must be true or false"))),
        }
    }

    /// An object that may be absent or null.
    pub fn optional_object(&self, name: &'static str) -> Result<Option<&Map<String, Value>>, Problem> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Problem::invalid_request(format!("{name} must be an object"))),
        }
    }

    /// A list that may be absent or null.
    pub fn optional_list(&self, name: &'static str) -> Result<Option<&Vec<Value>>, Problem> {
        list(self.fields.get(name), name)
    }
}

/// A list within the body that may be absent or null; `name` is its path for the problem.
pub fn list<'a>(value: Option<&'a Value>, name: &'static str) -> Result<Option<&'a Vec<Value>>, Problem> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(Problem::invalid_request(format!("{name} must be a list"))),
    }
}

/// A text that is not empty and not too long; `name` is for the problem.
pub fn check_text<'a>(name: Cow<'static, str>, text: &'a str) -> Result<&'a str, Problem> {
    if text.trim().is_empty() {
        Err(Problem::invalid_request(format!("{name} is empty")))
    } else if text.len() > FIELD_LIMIT {
        Err(Problem::invalid_request(format!("{name} is longer than {FIELD_LIMIT} bytes")))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(content_type: Option<&str>, body: &str) -> Request {
        Request::read(&json!({"headers": {"content-type": content_type}, "body": body}).to_string()).unwrap()
    }

    #[test]
    fn json_forms_and_a_missing_type_are_read() {
        for (content_type, body) in [
            (None, r#"{"a":"x y"}"#),
            (Some("application/json;charset=UTF-8"), r#"{"a":"x y"}"#),
            (Some("application/x-www-form-urlencoded; charset=UTF-8"), "a=x+y&b=%F0%9F%92%A7"),
        ] {
            let fields = Fields::json_or_form(&request(content_type, body)).unwrap();
            assert_eq!(fields.text("a").unwrap(), "x y");
        }
    }

    #[test]
    fn bad_bodies_are_problems_that_do_not_echo_them() {
        for (content_type, body, status) in [
            (None, "", 400),
            (None, "{", 400),
            (None, "[\"canary\"]", 400),
            (None, "\"canary\"", 400),
            (Some("text/plain"), "canary", 415),
            (Some("multipart/form-data; boundary=x"), "canary", 415),
        ] {
            let problem = Fields::json_or_form(&request(content_type, body)).unwrap_err();
            assert_eq!(problem.status(), status, "{body}");
            assert!(!format!("{problem:?}").contains("canary"));
        }
    }

    #[test]
    fn a_form_field_that_comes_twice_is_an_error_where_it_is_read() {
        let fields =
            Fields::json_or_form(&request(Some("application/x-www-form-urlencoded"), "a=1&x[]=1&x[]=2&b=1&b=2"));
        let fields = fields.unwrap();
        assert_eq!(fields.text("a").unwrap(), "1");
        assert_eq!(fields.text("b").unwrap_err().status(), 400);
    }

    #[test]
    fn a_field_of_another_type_empty_or_too_long_is_named() {
        let long = "x".repeat(FIELD_LIMIT + 1);
        for value in [json!(1), json!(["canary"]), json!(""), json!(" "), json!(long), json!({"canary": 1})] {
            let fields = Fields::json(&request(None, &json!({"a": value}).to_string())).unwrap();
            let problem = format!("{:?}", fields.text("a").unwrap_err());
            assert!(problem.contains("a ") && !problem.contains("canary") && !problem.contains("xxx"), "{problem}");
        }
        let fields = Fields::json(&request(None, r#"{"a":null}"#)).unwrap();
        assert!(fields.optional_text("a").unwrap().is_none() && fields.text("a").is_err());
    }
}
