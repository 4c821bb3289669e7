use super::*;

/// Ring contents that a stock i915 wrote, one command a line.
const SEEN: &[(Engine, &str, &[u32])] = &[
    (Engine::Rcs, "PIPE_CONTROL", &[0x7a00_0004, 0x0034_4c1c, 0x0000_00d0, 0, 0, 0]),
    (Engine::Rcs, "PIPE_CONTROL", &[0x7a00_0004, 0x0110_4080, 0x27ff_e100, 0, 1, 0]),
    (Engine::Rcs, "MI_USER_INTERRUPT", &[0x0100_0000]),
    (Engine::Rcs, "MI_ARB_ON_OFF", &[0x0400_0001]),
    (Engine::Bcs, "MI_FLUSH_DW", &[0x1324_4002, 0x0000_00d0, 0, 0]),
    (Engine::Vcs, "MI_FLUSH_DW", &[0x1324_4082, 0x0000_00d0, 0, 0]),
    (Engine::Vecs, "MI_FLUSH_DW", &[0x1300_4002, 0x27fd_f104, 0, 1]),
    (Engine::Rcs, "MI_BATCH_BUFFER_START", &[0x1880_0001, 0x27fc_5000, 0]),
];

#[test]
fn table_ascends_so_that_it_can_be_searched() {
    for w in TABLE.windows(2) {
        let key = |d: &CmdDef| (d.client as u32, d.opcode);
        assert!(key(&w[0]) < key(&w[1]), "{} and {}", w[0].name, w[1].name);
    }
}

#[test]
fn every_opcode_of_every_client_is_found_if_it_has_a_row_and_only_then() {
    let clients = [(Client::Mi, 0, 23, 1 << 6), (Client::Blt, 2, 22, 1 << 7), (Client::Pipe, 3, 16, 1 << 13)];
    for (client, number, shift, opcodes) in clients {
        for opcode in 0..opcodes {
            let row = TABLE.iter().find(|row| (row.client, row.opcode) == (client, opcode));
            let decoded = decode(number << 29 | opcode << shift).expect("a client's");
            assert_eq!((decoded.client, decoded.opcode, decoded.def), (client, opcode, row));
        }
    }
}

#[test]
fn commands_of_a_stock_i915_have_their_length_and_engine() {
    for &(engine, name, dwords) in SEEN {
        let d = decode(dwords[0]).expect(name);
        assert_eq!((d.name(), d.dwords as usize), (name, dwords.len()));
        assert!(d.legal_on(engine), "{name} on {engine:?}");
    }
    let lri = decode(0x1100_0011).expect("LRI");
    assert_eq!((lri.name(), lri.dwords), ("MI_LOAD_REGISTER_IMM", 19));
}

#[test]
fn builders_give_the_headers_of_the_documentation() {
    assert_eq!(MI_USER_INTERRUPT, 0x0100_0000);
    assert_eq!(MI_ARB_CHECK, 0x0280_0000);
    assert_eq!((MI_ARB_ON, MI_ARB_OFF), (0x0400_0001, 0x0400_0000));
    assert_eq!(MI_BATCH_BUFFER_END, 0x0500_0000);
    assert_eq!(store_dword(0, 0)[0], 0x1000_0002 | USE_GGTT);
    assert_eq!(store_qword(0, 0)[0], 0x1020_0003 | USE_GGTT);
    assert_eq!(load_register_imm(0, 0)[0], 0x1100_0001);
    assert_eq!(store_register_mem(0, 0)[0], 0x1200_0002 | USE_GGTT);
    assert_eq!(batch_buffer_start(0)[0], 0x1880_0001);
    assert_eq!(flush_dw_store(0, 0)[0], 0x1300_4002);
    assert_eq!(flush_dw_store_index(0, 0)[0], 0x1320_4003);
    assert_eq!(pipe_control_store(0, 0)[..2], [0x7a00_0004, 0x0110_4000]);
}

#[test]
fn what_is_built_decodes_to_its_own_length() {
    let all: [&[u32]; 8] = [
        &store_dword(1, 2),
        &store_qword(1, 2),
        &load_register_imm(1, 2),
        &store_register_mem(1, 2),
        &batch_buffer_start(8),
        &flush_dw_store(8, 9),
        &flush_dw_store_index(8, 9),
        &pipe_control_store(8, 9),
    ];
    for c in all {
        assert_eq!(decode(c[0]).map(|d| d.dwords as usize), Some(c.len()), "{:x}", c[0]);
    }
}

#[test]
fn reserved_clients_have_no_length() {
    for client in [1u32, 4, 5, 6, 7] {
        assert_eq!(decode(client << 29), None);
    }
}

#[test]
fn command_without_a_name_has_the_default_length() {
    let mi_low = decode(0x04 << 23).expect("MI");
    assert_eq!((mi_low.dwords, mi_low.def, mi_low.legal_on(Engine::Rcs)), (1, None, false));
    let three_d = decode(0x7804_0003).expect("3D");
    assert_eq!(
        (three_d.dwords, three_d.legal_on(Engine::Rcs), three_d.legal_on(Engine::Bcs)),
        (5, true, false)
    );
    assert_eq!(decode(0x6904_0000).map(|d| d.dwords), Some(1));
    assert_eq!(decode(0x780b_0001).map(|d| d.dwords), Some(1));
}

#[test]
fn render_and_media_commands_have_the_lengths_of_their_documentation() {
    for (header, engine, dwords) in [
        (0x7000_0007u32, Engine::Rcs, 9),  // MEDIA_VFE_STATE
        (0x7001_0002, Engine::Rcs, 4),     // MEDIA_CURBE_LOAD
        (0x7100_0123, Engine::Rcs, 0x125), // MEDIA_OBJECT with inline data
        (0x7105_050d, Engine::Rcs, 15),    // GPGPU_WALKER with flags in 10 and 8
        (0x7917_0101, Engine::Rcs, 0x103), // 3DSTATE_SO_DECL_LIST
        (0x7b00_0005, Engine::Rcs, 7),     // 3DPRIMITIVE
        (0x6101_000e, Engine::Rcs, 16),    // STATE_BASE_ADDRESS
        (0x6800_0100, Engine::Vcs, 1),     // MFX_WAIT
        (0x7000_0003, Engine::Vcs, 5),     // MFX_PIPE_MODE_SELECT
        (0x7400_0007, Engine::Vecs, 9),    // VEBOX_STATE
    ] {
        let d = decode(header).expect("a client");
        assert!(d.legal_on(engine), "{header:#x}");
        assert_eq!(d.dwords, dwords, "{header:#x}");
    }
}

#[test]
fn no_command_is_longer_than_its_widest_length_field() {
    for header in (0..u32::MAX).step_by(4099) {
        if let Some(d) = decode(header) {
            assert!((1..=65537).contains(&d.dwords));
        }
    }
}
