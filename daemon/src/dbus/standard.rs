//! The interfaces that every service has: Peer, Introspectable, Properties, ObjectManager. Invariant: they show a caller
//! what it may see and nothing else, so none of them is left to a library that shows everything to everyone.
use super::call::Call;
use super::objects::Object;
use super::refusal::Refusal;
use super::route::DESCRIBED;
use std::fmt::Write;

const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
/// Reading properties, and the news of their changes.
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// Listing objects, and the news of those that come and go.
pub const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";
/// All of them.
pub const INTERFACES: &[&str] = &[PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER];

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect"><arg name="xml_data" type="s" direction="out"/></method>
  </interface>
"#;

const PROPERTIES_XML: &str = r#"  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="props" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
"#;

const OBJECT_MANAGER_XML: &str = r#"  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects">
      <arg name="objects" type="a{oa{sa{sv}}}" direction="out"/>
    </method>
    <signal name="InterfacesAdded">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="a{sa{sv}}"/>
    </signal>
    <signal name="InterfacesRemoved">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="as"/>
    </signal>
  </interface>
"#;

/// Whether a call is answered from memory, so that it can be in the order of its caller's calls.
pub fn is_quick(call: &Call) -> bool {
    let standard = match call.interface.as_deref() {
        Some(interface) => INTERFACES.contains(&interface),
        None => interface_of(&call.member).is_some(),
    };
    standard || matches!(call.member.as_str(), "Cancel" | "Close")
}

/// Which of these interfaces has a method.
pub fn interface_of(member: &str) -> Option<&'static str> {
    match member {
        "Ping" | "GetMachineId" => Some(PEER),
        "Introspect" => Some(INTROSPECTABLE),
        "Get" | "GetAll" | "Set" => Some(PROPERTIES),
        "GetManagedObjects" => Some(OBJECT_MANAGER),
        _ => None,
    }
}

/// Does what a call to one of these interfaces says.
pub async fn method(call: &Call, object: &Object, interface: &str) -> Result<(), Refusal> {
    let missing = match interface {
        PROPERTIES => matches!(object, Object::Branch),
        OBJECT_MANAGER => !matches!(object, Object::Daemon),
        _ => false,
    };
    if missing {
        return Err(Refusal::unknown_interface(&call.path, interface));
    }
    match (interface, call.member.as_str()) {
        (PEER, "Ping") => {
            call.no_args()?;
            call.reply(&()).await;
        }
        (PEER, "GetMachineId") => {
            call.no_args()?;
            let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
            call.reply(&id.trim()).await;
        }
        (INTROSPECTABLE, "Introspect") => {
            call.no_args()?;
            call.reply(&introspection(call, object)).await;
        }
        (OBJECT_MANAGER, "GetManagedObjects") => {
            call.no_args()?;
            call.reply(&call.door.managed(&call.client)).await;
        }
        (PROPERTIES, "Get") => get(call, object).await?,
        (PROPERTIES, "GetAll") => {
            let interface = call.args("s", |interface: String| interface)?;
            own(call, object, &interface)?;
            call.reply(&object.properties(&call.door)).await;
        }
        (PROPERTIES, "Set") => {
            let given = call.args("ssv", |given: (String, String, zbus::OwnedVariant)| {
                (given.0, given.1)
            })?;
            own(call, object, &given.0)?;
            return Err(
                match object.properties(&call.door).contains_key(given.1.as_str()) {
                    true => Refusal::read_only(&given.1),
                    false => Refusal::unknown_property(&call.path, &given.1),
                },
            );
        }
        _ => return Err(Refusal::unknown_method(&call.path, &call.member)),
    }
    Ok(())
}

async fn get(call: &Call, object: &Object) -> Result<(), Refusal> {
    let (interface, name) = call.args("ss", |names: (String, String)| names)?;
    own(call, object, &interface)?;
    let mut properties = object.properties(&call.door);
    let value = properties.remove(name.as_str());
    let value = value.ok_or_else(|| Refusal::unknown_property(&call.path, &name))?;
    call.reply(&value).await;
    Ok(())
}

/// The interface is the object's own, or left empty, which stands for any.
fn own(call: &Call, object: &Object, interface: &str) -> Result<(), Refusal> {
    match interface.is_empty() || object.interface() == Some(interface) {
        true => Ok(()),
        false => Err(Refusal::unknown_interface(&call.path, interface)),
    }
}

fn introspection(call: &Call, object: &Object) -> String {
    let mut xml = HEAD.to_owned();
    if !matches!(object, Object::Branch) {
        xml.push_str(PROPERTIES_XML);
    }
    if matches!(object, Object::Daemon) {
        xml.push_str(OBJECT_MANAGER_XML);
    }
    if let Some(interface) = object.interface() {
        xml.push_str(description(interface));
    }
    for child in call.door.children(&call.path, &call.client) {
        // Writing to a String does not fail.
        let _ = writeln!(xml, "  <node name=\"{child}\"/>");
    }
    xml.push_str("</node>\n");
    xml
}

/// The interface's own part of its file.
fn description(interface: &str) -> &'static str {
    let found = DESCRIBED.iter().find(|(name, _)| *name == interface);
    let part = found.and_then(|(_, file)| {
        let start = file.find("  <interface ")?;
        let end = file.rfind("</node>")?;
        file.get(start..end)
    });
    part.unwrap_or_default()
}
