//! The OpenAPI description, collected from the handlers, and the page that shows it.

use super::routes;
use crate::app::App;
use axum::Router;
use std::sync::Arc;
use utoipa::{
    OpenApi,
    openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Cloud Sandbox",
        description = "Runs code that nobody has read, safely. Every error has the shape of `ErrorBody`; its codes are explained in docs/errors.",
        license(name = "MIT", identifier = "MIT"),
        contact()
    ),
    components(schemas(csb_api::ErrorBody, csb_api::ErrorCode, csb_api::OutputEvent, csb_api::WsServer, csb_api::WsClient)),
    modifiers(&Security),
    security(("token" = []), ("api_key" = [])),
    tags(
        (name = "auth", description = "Tokens and API keys"),
        (name = "sandboxes", description = "Confined process trees with their files"),
        (name = "execs", description = "Commands and code in a sandbox"),
        (name = "files", description = "Files of a sandbox"),
        (name = "sessions", description = "What a user keeps while sandboxes come and go"),
        (name = "simple", description = "The few calls that most programs need"),
        (name = "server", description = "The server itself")
    )
)]
struct Doc;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        components
            .add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    }
}

/// Routes for anyone, routes for callers, and the description of both.
pub(super) fn routes() -> (Router<Arc<App>>, Router<Arc<App>>, utoipa::openapi::OpenApi) {
    let (open, open_doc) = routes::open().split_for_parts();
    let (guarded, doc) = OpenApiRouter::with_openapi(Doc::openapi()).merge(routes::guarded()).split_for_parts();
    (open, guarded, doc.merge_from(open_doc))
}

/// `/docs` and `/openapi.json`; the page's scripts are part of the program.
pub(super) fn docs(doc: utoipa::openapi::OpenApi) -> Router<Arc<App>> {
    SwaggerUi::new("/docs").url("/openapi.json", doc).into()
}

/// The description as it is committed.
pub fn openapi_json() -> String {
    let (_, _, doc) = routes();
    let mut text = doc.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_in_the_repository_is_the_codes() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/openapi.json");
        if std::env::var_os("CSB_BLESS").is_some() {
            std::fs::create_dir_all(std::path::Path::new(file).parent().unwrap()).unwrap();
            std::fs::write(file, openapi_json()).unwrap();
        }
        let committed = std::fs::read_to_string(file).unwrap_or_default();
        assert!(committed == openapi_json(), "run `CSB_BLESS=1 cargo nextest run -p csb-server description`");
    }

    /// All routes as a page for people.
    fn routes_page() -> String {
        let doc: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        let mut page = String::from(
            "# Routes\n\nThis page is made from the code. What they are for is told in [REST, a short tour](rest.md); every \
             field is in [openapi/openapi.json](../../openapi/openapi.json) and, on a server, at `/docs`. An answer of \
             4xx or 5xx has the [one shape of errors](../errors/README.md). `?` marks what may be absent.\n",
        );
        let name_of = |schema: &serde_json::Value| {
            let one_of = schema["oneOf"].as_array().into_iter().flatten();
            let reference = std::iter::once(schema).chain(one_of).find_map(|schema| schema["$ref"].as_str());
            reference.and_then(|r| r.rsplit('/').next()).map(|name| format!("`{name}`"))
        };
        let mut tags: Vec<&str> = Vec::new();
        let mut rows: std::collections::BTreeMap<&str, String> = Default::default();
        for (path, item) in doc["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let tag = operation["tags"][0].as_str().unwrap();
                let mut given = Vec::new();
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
                    let mark = if parameter["required"] == true { "" } else { "?" };
                    match place {
                        "query" => given.push(format!("`{name}`{mark}")),
                        "header" => given.push(format!("header `{name}`{mark}")),
                        _ => {}
                    }
                }
                for (kind, body) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                    let mark = if operation["requestBody"]["required"] == true { "" } else { "?" };
                    given.push(format!("body {}{mark}", name_of(&body["schema"]).unwrap_or(format!("`{kind}`"))));
                }
                let mut answers = Vec::new();
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    if status == "default" {
                        continue;
                    }
                    let kinds = answer["content"].as_object().into_iter().flatten();
                    let said: Vec<String> =
                        kinds.map(|(kind, body)| name_of(&body["schema"]).unwrap_or(format!("`{kind}`"))).collect();
                    answers.push(format!("{status} {}", said.join(" or ")).trim().to_owned());
                }
                if !tags.contains(&tag) {
                    tags.push(tag);
                }
                rows.entry(tag).or_default().push_str(&format!(
                    "| `{} {path}` | {} | {} | {} |\n",
                    method.to_uppercase(),
                    operation["summary"].as_str().unwrap(),
                    given.join(", "),
                    answers.join("; ")
                ));
            }
        }
        for tag in tags {
            page.push_str(&format!(
                "\n## {tag}\n\n| route | | takes | answers |\n| --- | --- | --- | --- |\n{}",
                rows[tag]
            ));
        }
        page
    }

    #[test]
    fn the_list_of_routes_in_the_repository_is_the_codes_by_its_description() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/routes.md");
        if std::env::var_os("CSB_BLESS").is_some() {
            std::fs::write(file, routes_page()).unwrap();
        }
        let committed = std::fs::read_to_string(file).unwrap_or_default();
        assert!(committed == routes_page(), "run `CSB_BLESS=1 cargo nextest run -p csb-server description`");
    }

    #[test]
    fn every_operation_is_named_described_and_tells_its_errors() {
        let doc: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        assert_eq!(doc["openapi"], "3.1.0");
        let mut names = std::collections::HashSet::new();
        for (path, item) in doc["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap_or_default();
                assert!(names.insert(name.to_owned()), "{method} {path}: operation id `{name}` twice");
                assert!(operation["summary"].is_string(), "{method} {path} has no summary");
                assert!(operation["tags"].is_array(), "{method} {path} has no tag");
                if path.starts_with("/api") {
                    assert!(operation["responses"]["default"].is_object(), "{method} {path} tells no error");
                }
            }
        }
    }
}
