# docker build -t kexue-jax .                                     on the CPU
# docker build -t kexue-jax --build-arg EXTRA=cuda12 .            with JAX for CUDA (or cuda13, tpu)
# docker run --rm -v "$PWD/runs:/kexue-jax/runs" kexue-jax        the demo
# docker run --rm --gpus all -v "$PWD/runs:/kexue-jax/runs" kexue-jax kexue-jax run NAME --preset paper
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /kexue-jax
COPY . .
ARG EXTRA=""
RUN make .venv/.installed \
    && if [ -n "$EXTRA" ]; then .venv/bin/uv pip install --python .venv/bin/python --editable ".[$EXTRA]"; fi \
    && rm -rf /root/.cache
ENV PATH="/kexue-jax/.venv/bin:$PATH"
CMD ["make", "demo"]
