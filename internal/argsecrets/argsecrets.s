// The functions that the runtime provides have no body here, which Go only allows beside assembly.
