# Keyslot as an image: docs/ops/packaging.md says how it is built, run and checked, scripts/build-image does all three.
#
#   docker build --build-arg BASE_IMAGE=debian:bookworm-slim@sha256:… --tag keyslot .
#   docker build --build-arg BASE_IMAGE=…  --target softhsm --tag keyslot:softhsm .   # with SoftHSM in it, for trials
#
# The digest of zeros is a placeholder that nobody can pull: whoever builds names the base that was reviewed.
ARG BASE_IMAGE=debian:bookworm-slim@sha256:0000000000000000000000000000000000000000000000000000000000000000

# What compiles, and is left behind. npm comes from Debian, and Node from the lock file, with its hash.
FROM ${BASE_IMAGE} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      ca-certificates g++ npm \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
# Secrets of the build, both optional, are there for this one instruction: a registry's token, and a CA of the network.
# All packages to compile with, and in a folder of their own those of production, out of the cache of the first.
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc \
    --mount=type=secret,id=ca,target=/run/ca.pem \
    export NODE_EXTRA_CA_CERTS=/run/ca.pem \
 && npm ci --ignore-scripts --no-audit --no-fund \
 && mkdir /production && cp package.json package-lock.json .npmrc /production && cd /production \
 && npm ci --ignore-scripts --no-audit --no-fund --omit=dev --prefer-offline
# The one addon, against the headers of the Node that it will run on: nothing is downloaded for it.
COPY packaging/image packaging/image
RUN sh packaging/image/compile-addon /production/node_modules
COPY tsconfig.json tsconfig.build.json ./
COPY src src
COPY hsm-config hsm-config
RUN npm run build \
 && sh packaging/image/install-app /build /production /rootfs/opt/keyslot

# The operating system as a list of packages, of which only what runs is taken: no shell, no package manager.
FROM ${BASE_IMAGE} AS system
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      libstdc++6 libgcc-s1 tini util-linux \
 && rm -rf /var/lib/apt/lists/*
COPY packaging/image packaging/image
RUN sh packaging/image/copy-packages /rootfs libc6 libgcc-s1 libstdc++6 libsmartcols1 tini \
 && sh packaging/image/copy-packages /rootfs util-linux:/usr/bin/prlimit \
 && sh packaging/image/prepare-root /rootfs

FROM system AS softhsm-system
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends libsofthsm2 \
 && rm -rf /var/lib/apt/lists/* \
 && sh packaging/image/copy-packages /softhsm libsofthsm2 libssl3

# What runs, from nothing but the two folders above.
FROM scratch AS runtime
COPY --from=system /rootfs /
COPY --from=build /rootfs /
COPY --chown=65532:65532 --from=system /state /var/lib/keyslot
COPY --chmod=0444 packaging/image/healthcheck.mjs /opt/keyslot/healthcheck.mjs
LABEL org.opencontainers.image.title="keyslot" \
      org.opencontainers.image.description="The signing appliance that stands in front of an HSM" \
      org.opencontainers.image.base.name="debian:bookworm-slim"
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV KEYSLOT_HOME=/var/lib/keyslot \
    PATH=/opt/keyslot/bin
WORKDIR /opt/keyslot
VOLUME /var/lib/keyslot
USER 65532:65532
EXPOSE 8443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/opt/keyslot/bin/node", "/opt/keyslot/healthcheck.mjs", "/healthz"]
# tini collects what is orphaned; prlimit takes core files away before anything has read a secret.
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/prlimit", "--core=0:0", "--", "/opt/keyslot/bin/node", \
  "--disable-proto=throw", "--disallow-code-generation-from-strings", "--disable-sigusr1", \
  "/opt/keyslot/dist/cli/main.js"]
CMD ["serve"]

FROM runtime AS softhsm
COPY --from=softhsm-system /softhsm /
COPY --chmod=0444 packaging/softhsm/prepare.mjs /opt/keyslot/prepare-softhsm.mjs

FROM runtime AS keyslot
