//! Request bodies: JSON objects and forms. Each field is read by itself, so a problem names the field and never its value.
//! If nobody reads a field, the field may be invalid: a name cut in the middle of an emoji, or a number out of range.

use std::collections::HashMap;

use lambda_http::{Request, http::header::CONTENT_TYPE};
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use super::{Code, Problem, Result};
use crate::identity::UserId;

/// Longest body, in bytes after decoding.
const BODY_LIMIT: usize = 64 * 1024;

/// Longest field, in bytes.
pub const FIELD_LIMIT: usize = 4 * 1024;

#[derive(Debug, Default)]
pub struct Fields {
    fields: HashMap<String, Box<RawValue>>,
    pub is_form: bool,
}

impl Fields {
    /// Reads a JSON object. An empty body has no fields.
    pub fn json(request: &Request) -> Result<Self> {
        let body = bytes(request)?;
        match media_type(request).as_deref() {
            _ if body.is_empty() => Ok(Self::default()),
            None | Some("application/json") => Self::object(body),
            Some(_) => Err(Problem::new(Code::UnsupportedMediaType, "send application/json")),
        }
    }

    /// Reads a JSON object or a form. An empty body is a problem.
    pub fn json_or_form(request: &Request) -> Result<Self> {
        let body = bytes(request)?;
        match media_type(request).as_deref() {
            _ if body.is_empty() => Err(Problem::invalid_request("the body is empty")),
            None | Some("application/json") => Self::object(body),
            Some("application/x-www-form-urlencoded") => Ok(Self::from_form(body)),
            Some(_) => {
                let detail = "send application/json or application/x-www-form-urlencoded";
                Err(Problem::new(Code::UnsupportedMediaType, detail))
            }
        }
    }

    /// Reads a JSON object.
    pub fn object(body: &[u8]) -> Result<Self> {
        match serde_json::from_slice(body) {
            Ok(fields) => Ok(Self { fields, is_form: false }),
            Err(error) if error.is_data() => Err(Problem::invalid_request("the body is not a JSON object")),
            Err(_) => Err(Problem::invalid_request("the body is not JSON")),
        }
    }

    fn from_form(body: &[u8]) -> Self {
        let mut fields = HashMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            // a field that comes twice becomes a list: nobody can say which value counts, so reading it as text fails
            let is_second = fields.contains_key(&*name);
            let value = if is_second { to_raw_value(&[value]) } else { to_raw_value(&value) };
            // text: cannot fail
            fields.insert(name.into_owned(), value.unwrap_or_default());
        }
        Self { fields, is_form: true }
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The body has one of these fields, with any value.
    pub fn has_any<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> bool {
        names.into_iter().any(|name| self.fields.contains_key(name))
    }

    /// A field, or `None` if it is absent or of another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.fields.get(name)?.get()).ok()
    }

    /// A required text under one of two names. Two different values are a problem.
    pub fn text_of(&self, name: &str, alias: &str) -> Result<String> {
        match (self.optional_text(name)?, self.optional_text(alias)?) {
            (Some(one), Some(other)) if one != other => {
                Err(Problem::invalid_request(format!("{name} and {alias} have different values; send one of them")))
            }
            (Some(text), _) | (None, Some(text)) => Ok(text),
            (None, None) => Err(Problem::invalid_request(format!("{name} is missing"))),
        }
    }

    /// A required text.
    pub fn text(&self, name: &str) -> Result<String> {
        self.optional_text(name)?.ok_or_else(|| Problem::invalid_request(format!("{name} is missing")))
    }

    /// A required user ID.
    pub fn user_id(&self, name: &str) -> Result<UserId> {
        UserId::new(self.text(name)?)
            .ok_or_else(|| Problem::invalid_request(format!("{name} is longer than 1024 bytes")))
    }

    /// A text that may be absent or null, but not blank or too long.
    pub fn optional_text(&self, name: &str) -> Result<Option<String>> {
        let text: Option<String> = self.optional(name, "must be a string")?;
        match &text {
            Some(text) if text.trim().is_empty() => Err(Problem::invalid_request(format!("{name} is empty"))),
            Some(text) if text.len() > FIELD_LIMIT => {
                Err(Problem::invalid_request(format!("{name} is longer than {FIELD_LIMIT} bytes")))
            }
            _ => Ok(text),
        }
    }

    /// An optional text that `parse` accepts. Otherwise, `problem` says how the text must be.
    pub fn parsed<T>(&self, name: &str, problem: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.optional_text(name)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| Problem::invalid_request(format!("{name} {problem}")))
    }

    /// A boolean. Absent or null is `false`.
    pub fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.optional(name, "must be true or false")?.unwrap_or(false))
    }

    fn optional<T: DeserializeOwned>(&self, name: &str, problem: &str) -> Result<Option<T>> {
        let Some(field) = self.fields.get(name) else { return Ok(None) };
        serde_json::from_str(field.get()).map_err(|_| Problem::invalid_request(format!("{name} {problem}")))
    }
}

/// The body, of at most 64 KiB.
pub(crate) fn bytes(request: &Request) -> Result<&[u8]> {
    let bytes = request.body().as_ref();
    if bytes.len() > BODY_LIMIT {
        return Err(Problem::new(Code::BodyTooLarge, "the body is longer than 64 KiB"));
    }
    Ok(bytes)
}

/// The media type without its parameters, in lower case.
fn media_type(request: &Request) -> Option<String> {
    let content_type = String::from_utf8_lossy(request.headers().get(CONTENT_TYPE)?.as_bytes());
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded; charset=UTF-8");

    fn request(content_type: Option<&str>, body: &str) -> Request {
        let mut request = Request::new(body.into());
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_body_is_at_most_64_kib() {
        let status = |bytes: usize| {
            let body = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
            Fields::json(&request(None, &body)).map(drop).map_err(|problem| problem.status())
        };
        assert_eq!((status(65_536), status(65_537)), (Ok(()), Err(413)));
    }

    #[test]
    fn the_media_type_is_found_in_any_case_and_with_parameters() {
        let media = |content_type| media_type(&request(content_type, ""));
        assert_eq!(media(Some("Application/JSON; charset=utf-8")).as_deref(), Some("application/json"));
        assert_eq!((media(Some("")), media(Some(" ; x")), media(None)), (None, None, None));
        assert!(media(Some("made-üp")).is_some(), "415");
    }

    #[test]
    fn json_and_forms_are_read_and_bad_bodies_are_problems_that_do_not_echo_them() {
        for (content_type, body, expected) in [
            (None, r#"{"a":"x y"}"#, Ok("x y")),
            (Some("application/json;charset=UTF-8"), r#"{"a":"x y"}"#, Ok("x y")),
            (FORM, "a=x+y&b=%F0%9F%92%A7", Ok("x y")),
            (None, "", Err(400)),
            (None, "{", Err(400)),
            (None, "[\"canary\"]", Err(400)),
            (None, "\"canary\"", Err(400)),
            (Some("text/plain"), "canary", Err(415)),
            (Some("multipart/form-data; boundary=x"), "canary", Err(415)),
        ] {
            match Fields::json_or_form(&request(content_type, body)) {
                Ok(fields) => assert_eq!(Ok(fields.text("a").unwrap().as_str()), expected, "{body}"),
                Err(problem) => {
                    assert_eq!(Err(problem.status()), expected, "{body}");
                    assert!(!format!("{problem:?}").contains("canary"));
                }
            }
        }
    }

    #[test]
    fn a_form_field_that_comes_twice_is_an_error_where_it_is_read() {
        let fields = Fields::json_or_form(&request(FORM, "a=1&x[]=1&x[]=2&b=1&b=2")).unwrap();
        assert_eq!(fields.text("a").unwrap(), "1");
        assert_eq!(fields.text("b").unwrap_err().status(), 400);
    }

    #[test]
    fn a_broken_field_spoils_no_other() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let body = format!(r#"{{"a":"x","b":"\ud83d","c":1e999,"d":{deep}}}"#);
        let fields = Fields::json(&request(None, &body)).unwrap();
        assert_eq!(fields.text("a").unwrap(), "x");
        for name in ["b", "c", "d"] {
            assert!(fields.has_any([name]) && fields.get::<Value>(name).is_none(), "{name}");
            assert_eq!(fields.text(name).unwrap_err().status(), 400);
        }
    }

    #[test]
    fn a_field_with_two_names_has_one_value() {
        for (body, expected) in [
            (json!({"humanId": "h"}), Some("h")),
            (json!({"human_id": "h"}), Some("h")),
            (json!({"humanId": "h", "human_id": "h"}), Some("h")),
            (json!({"humanId": null, "human_id": "h"}), Some("h")),
            (json!({"humanId": "canary", "human_id": "h"}), None),
            (json!({"humanId": "h", "human_id": 1}), None),
            (json!({}), None),
        ] {
            let fields = Fields::json(&request(None, &body.to_string())).unwrap();
            let text = fields.text_of("humanId", "human_id").map_err(|problem| format!("{problem:?}"));
            if let Err(problem) = &text {
                assert!(problem.contains("humanId") || problem.contains("human_id"), "{problem}");
                assert!(!problem.contains("canary"), "{problem}");
            }
            assert_eq!(text.ok().as_deref(), expected, "{body}");
        }
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

    #[test]
    fn an_empty_body_has_no_fields_but_a_finish_needs_one() {
        for content_type in [None, FORM, Some("application/json"), Some("text/plain")] {
            let empty = request(content_type, "");
            assert!(Fields::json(&empty).unwrap().is_empty(), "{content_type:?}");
            assert_eq!(Fields::json_or_form(&empty).unwrap_err().status(), 400, "{content_type:?}");
        }
        assert!(!Fields::json(&request(None, r#"{"a":null}"#)).unwrap().is_empty());
    }

    #[test]
    fn a_problem_says_whether_the_body_is_no_json_or_no_object() {
        for (body, detail) in [("{", "the body is not JSON"), ("[]", "the body is not a JSON object")] {
            let problem = format!("{:?}", Fields::json(&request(None, body)).unwrap_err());
            assert!(problem.contains(&format!("\"{detail}\"")), "{problem}");
        }
    }

    #[test]
    fn fields_are_found_read_and_parsed() {
        let body = json!({"yes": true, "no": false, "null": null, "text": "12", "long": "x".repeat(4096)});
        let fields = Fields::json(&request(None, &body.to_string())).unwrap();
        assert!(fields.has_any(["absent", "null"]) && !fields.has_any(["absent"]));
        assert_eq!((fields.get::<bool>("yes"), fields.get::<bool>("text")), (Some(true), None));
        let flag = |name| fields.flag(name).map_err(|problem| problem.status());
        assert_eq!(["yes", "no", "null", "absent"].map(flag), [Ok(true), Ok(false), Ok(false), Ok(false)]);
        assert_eq!(flag("text"), Err(400));
        let number = |name| fields.parsed(name, "must be a number", |text| text.parse::<u8>().ok());
        assert_eq!((number("text").unwrap(), number("absent").unwrap()), (Some(12), None));
        assert_eq!(number("long").unwrap_err().status(), 400);
        assert_eq!(fields.text("long").unwrap().len(), FIELD_LIMIT);
    }
}
