"""What a fleet of sessions takes: counted, modelled, and priced. The programs are `infra.costs` and `infra.scale`."""
