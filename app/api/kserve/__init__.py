"""`/v2`: the Open Inference Protocol with Triton's extensions. `service` is what every transport shares; `rest` speaks
it over HTTP."""
