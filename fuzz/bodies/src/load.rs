//! Components that somebody offers.

/// The bytes are a component: it is taken or refused with a code of its own, for ever the same.
pub fn load(data: &[u8]) {
    let checked = windlass_plugin::check_component(data);
    match &checked {
        Ok(()) => assert_eq!(data.get(..8), Some(&b"\0asm\x0d\0\x01\0"[..]), "only a component passes"),
        Err(refusal) => {
            assert!((110..=123).contains(&(refusal.code as u16)), "{refusal} is not about a component");
            assert!(!refusal.message.contains(char::is_control), "{refusal}");
        }
    }
    assert_eq!(checked, windlass_plugin::check_component(data), "judged differently");
}
