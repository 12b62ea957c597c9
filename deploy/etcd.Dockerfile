# etcd for trials of docker-compose.yml, from Debian's packages, and with nothing of ours in it.
#
# Debian 12 has etcd 3.4, on which sessions are lost more often than on a current one; etcdlock says so when it starts. For
# anything that lasts take the etcd project's own image of 3.5.28, 3.6.9 or later: ETCD_IMAGE names it to the compose file.

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends etcd-server etcd-client && rm -rf /var/lib/apt/lists/* \
 && install -d -o 64055 -g 64055 -m 0700 /var/lib/etcd
USER 64055:64055
EXPOSE 2379 2380
CMD ["etcd"]
