// Functions without a body, which the runtime provides, are allowed beside an assembly file only.
