//! Clients that are bound to an instance by a cookie.

use rung_proto::InstanceId;

use crate::fields::FieldKind;
use crate::request_head::RequestHead;

/// The cookie that binds a client to an instance.
const STICKY_COOKIE: &[u8] = b"rung_instance=";

/// The instance that the client's cookie names.
pub(crate) fn sticky_instance(request: &RequestHead) -> Option<InstanceId> {
    request
        .fields
        .iter()
        .filter(|field| field.kind == FieldKind::Cookie)
        .flat_map(|field| request.bytes(field.value).split(|byte| *byte == b';'))
        .find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(STICKY_COOKIE)?;
            let text = std::str::from_utf8(value).ok()?;
            u64::from_str_radix(text, 16).ok().map(InstanceId)
        })
}

/// The cookie that binds a client to `instance`.
pub(crate) fn sticky_cookie(instance: InstanceId) -> String {
    format!("rung_instance={:x}; Path=/; HttpOnly; SameSite=Lax", instance.0)
}
