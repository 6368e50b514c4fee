{{/* All services by name, each with the defaults filled in, as YAML. What cannot be is refused here. */}}
{{- define "sagabox.services" -}}
{{- $values := .Values -}}
{{- $services := dict -}}
{{- $_ := set $services "orchestrator" (mergeOverwrite (deepCopy $values.defaults) (deepCopy $values.orchestrator) (dict "builtIn" true "port" 8000 "grpcPort" 8100)) -}}
{{- if $values.blog.enabled -}}
{{- range $name, $port := dict "articles" 8001 "comments" 8002 -}}
{{- $_ := set $services $name (mergeOverwrite (deepCopy $values.defaults) (deepCopy (get $values.blog $name)) (dict "builtIn" true "port" $port "grpcPort" (add $port 100))) -}}
{{- end -}}
{{- end -}}
{{- range $name, $own := $values.participants -}}
{{- if hasKey $services $name -}}
{{- fail (printf "participants.%s has the name of a service of the chart; give it another one, or set blog.enabled=false" $name) -}}
{{- end -}}
{{- $_ := set $services $name (mergeOverwrite (dict "builtIn" false "livez" "/livez" "readyz" "/readyz" "metrics" "/metrics") (deepCopy $values.defaults) (deepCopy $own)) -}}
{{- end -}}
{{- if not (or $values.blog.enabled $values.participants $values.peers) -}}
{{- fail "no service would answer the commands of the sagas; name yours in participants or peers, or set blog.enabled=true" -}}
{{- end -}}
{{- range $name, $service := $services -}}
{{- include "sagabox.check" (dict "root" $ "name" $name "service" $service) -}}
{{- end -}}
{{- toYaml $services -}}
{{- end -}}

{{/* Refuses what the schema of the values cannot see. */}}
{{- define "sagabox.check" -}}
{{- $scaling := .service.autoscaling -}}
{{- if and .service.builtIn (eq .root.Values.database "sqlite") -}}
{{- if or (ne (int .service.replicas) 1) (ne $scaling.by "none") -}}
{{- fail (printf "database is sqlite, whose file one process at a time serves, and %s has %d replicas or scales; set defaults.replicas=1 and autoscaling.by=none, or database=postgresql" .name (int .service.replicas)) -}}
{{- end -}}
{{- end -}}
{{- if gt (int $scaling.min) (int $scaling.max) -}}
{{- fail (printf "autoscaling of %s has min %d above max %d; set min to at most max" .name (int $scaling.min) (int $scaling.max)) -}}
{{- end -}}
{{- if and (eq .name "orchestrator") (ne $scaling.by "none") (gt (int $scaling.max) 16) -}}
{{- fail (printf "autoscaling.max of the orchestrator is %d, and at most 16 nodes share the runs; set it to 16 or less" (int $scaling.max)) -}}
{{- end -}}
{{- if and (eq $scaling.by "messages") (not .root.Values.monitoring.enabled) -}}
{{- fail (printf "%s scales by messages, which Prometheus counts; set monitoring.enabled=true, or autoscaling.by=cpu" .name) -}}
{{- end -}}
{{- if and .service.grpcPort (not .service.builtIn) (not .root.Values.grpc) -}}
{{- fail (printf "participants.%s has a grpcPort, and grpc is false; set grpc=true, or leave grpcPort out" .name) -}}
{{- end -}}
{{- if eq (int .service.port) (int .service.grpcPort) -}}
{{- fail (printf "participants.%s has port and grpcPort %d; gRPC needs a port of its own" .name (int .service.port)) -}}
{{- end -}}
{{- range $path := .service.ingress.paths -}}
{{- if or (eq $path "/") (hasPrefix "/messages" $path) (hasPrefix "/metrics" $path) -}}
{{- fail (printf "ingress.paths of %s has %s, which would publish /messages or /metrics; name the paths that callers outside need" $.name $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether the service takes messages over gRPC, too. */}}
{{- define "sagabox.onGrpc" -}}
{{- if and .root.Values.grpc .service.grpcPort }}yes{{ end -}}
{{- end -}}

{{/* The address at which the other services find one of them. */}}
{{- define "sagabox.address" -}}
{{- $name := include "sagabox.name" . -}}
{{- $onGrpc := include "sagabox.onGrpc" . -}}
{{- $scheme := ternary "grpc" "http" (not (empty $onGrpc)) -}}
{{- $port := int (ternary .service.grpcPort .service.port (not (empty $onGrpc))) -}}
{{- if eq .root.Values.discovery "dns" -}}
{{- printf "%s+dns://%s-pods:%d" $scheme $name $port -}}
{{- else -}}
{{- printf "%s://%s:%d" $scheme $name $port -}}
{{- end -}}
{{- end -}}

{{/* SAGABOX_PEERS, which is the same for all. */}}
{{- define "sagabox.peers" -}}
{{- $peers := list -}}
{{- range $name, $service := .services -}}
{{- $peers = append $peers (printf "%s=%s" $name (include "sagabox.address" (dict "root" $.root "name" $name "service" $service))) -}}
{{- end -}}
{{- range $name, $address := .root.Values.peers -}}
{{- if hasKey $.services $name -}}
{{- fail (printf "peers.%s is a service of this release, which the chart names itself; leave it out" $name) -}}
{{- end -}}
{{- $peers = append $peers (printf "%s=%s" $name $address) -}}
{{- end -}}
{{- join "," $peers -}}
{{- end -}}

{{/* The names by which callers in the cluster, and through the ingress, know one service. */}}
{{- define "sagabox.hosts" -}}
{{- $name := include "sagabox.name" . -}}
{{- $in := printf "%s.$(POD_NAMESPACE)" $name -}}
{{- $hosts := list $name $in (printf "%s.svc" $in) (printf "%s.svc.%s" $in .root.Values.clusterDomain) -}}
{{- with .service.ingress.host -}}
{{- $hosts = append $hosts . -}}
{{- end -}}
{{- join "," $hosts -}}
{{- end -}}
