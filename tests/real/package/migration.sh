#!/bin/bash
# A machine whose registry is behind nginx moves to tidegate and back, by the steps of docs/from-nginx.md: /lab/steps has one per line.
set -euxo pipefail
trap '[ $? = 0 ] || { journalctl --no-pager -n 60; systemctl --no-pager status tidegate nginx || true; }' EXIT
cd /lab
export DEBIAN_FRONTEND=noninteractive
config=/etc/tidegate/proxy.toml

# ping PORT WORDS...: the status of GET /v2/ with these further arguments of curl
ping() {
    local port=$1
    shift
    curl --silent --show-error --noproxy '*' --output /dev/null --write-out '%{http_code}' --max-time 20 --cacert /lab/ca.pem \
        --resolve "docker.example.com:$port:127.0.0.1" "$@" "https://docker.example.com:$port/v2/"
}
# server PORT: the Server header field, which nginx sets on its own responses
server() { ping "$1" --dump-header - | tr -d '\r' | sed -n 's/^[Ss]erver: //p'; }
fails() { if "$@"; then return 1; fi; }
until_true() { timeout 10 bash -c 'until "$@" >/dev/null 2>&1; do sleep 0.1; done' wait "$@"; }
# step NUMBER: runs this step
step() { bash -euxo pipefail -c "$(sed -n "$1p" /lab/steps)"; }

: a registry behind nginx, with a key that only root can read, and passwords for the group of nginx
mkdir -p /srv/registry /etc/nginx/certs
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /srv/registry}}\nhttp: {addr: "127.0.0.1:5000"}\n' >/srv/registry.yml
systemd-run --quiet --unit=registry docker-registry serve /srv/registry.yml
until_true curl --silent --fail --noproxy '*' http://127.0.0.1:5000/v2/
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /etc/nginx/certs/key.pem -out server.csr -subj /CN=docker.example.com
printf 'subjectAltName=DNS:docker.example.com\nbasicConstraints=critical,CA:FALSE\n' >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 30 -extfile server.ext -out server.pem
cat server.pem ca.pem >/etc/nginx/certs/fullchain.pem
chmod 600 /etc/nginx/certs/key.pem
htpasswd -Bbc /etc/nginx/registry.htpasswd alice pw
chown root:www-data /etc/nginx/registry.htpasswd
chmod 640 /etc/nginx/registry.htpasswd
rm -f /etc/nginx/sites-enabled/*
cat >/etc/nginx/conf.d/registry.conf <<'NGINX'
upstream docker-registry {
    server 127.0.0.1:5000;
}
map $upstream_http_docker_distribution_api_version $docker_distribution_api_version {
    '' 'registry/2.0';
}
server {
    listen 80;
    listen [::]:80;
    server_name docker.example.com;
    return 301 https://$host$request_uri;
}
server {
    listen 443 ssl;
    listen [::]:443 ssl;
    server_name docker.example.com;
    ssl_certificate /etc/nginx/certs/fullchain.pem;
    ssl_certificate_key /etc/nginx/certs/key.pem;
    client_max_body_size 0;
    chunked_transfer_encoding on;
    location /v2/ {
        auth_basic "Registry realm";
        auth_basic_user_file /etc/nginx/registry.htpasswd;
        add_header 'Docker-Distribution-Api-Version' $docker_distribution_api_version always;
        proxy_pass http://docker-registry;
        proxy_set_header Host $http_host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_read_timeout 900;
    }
}
NGINX
nginx -t
systemctl enable --now nginx
dpkg --install first.deb
[ "$(ping 443 --user alice:pw)" = 200 ]
[[ "$(server 443)" = nginx* ]]

: 1 and 2, translated, with other ports
step 1
step 2
cat $config
grep -q ':8443"' $config
fails grep -q ':443"' $config

: 3, the check names each file that the user may not read, with the remedy
fails step 3 2>&1 | tee /tmp/check
grep -q 'key.pem' /tmp/check
chgrp tidegate /etc/nginx/certs/key.pem
chmod g+r /etc/nginx/certs/key.pem
usermod -aG www-data tidegate
step 3

: 4, next to nginx
sed -n 4p /lab/steps >/tmp/step4
until_true test -s /tmp/step4
(sleep 2; echo pw) | script --quiet --return --command 'bash -euxo pipefail /tmp/step4' /tmp/typescript
cat /tmp/typescript
grep -q 'was pushed and pulled' /tmp/typescript
[ "$(ping 8443 --user alice:pw)" = 200 ]
[ "$(ping 8443 --user alice:wrong)" = 401 ]
[[ "$(server 443)" = nginx* ]]
[ "$(server 8443)" = '' ]

: 5, switched
step 5
[ "$(server 443)" = '' ]
[ "$(ping 443 --user alice:pw)" = 200 ]
[ "$(curl --silent --noproxy '*' --output /dev/null --write-out '%{http_code}' --resolve docker.example.com:80:127.0.0.1 http://docker.example.com/)" = 308 ]
fails ping 8443

: 6, and back
step 6
[[ "$(server 443)" = nginx* ]]
[ "$(ping 443 --user alice:pw)" = 200 ]
set +x
echo 'all checks passed'
