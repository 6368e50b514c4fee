{{- define "sagabox.secretKey" -}}
valueFrom:
  secretKeyRef:
    name: {{ .name }}
    key: {{ .key }}
{{- end -}}

{{/* The environment of one service, by variable, as YAML. What runs once has only its database in it. */}}
{{- define "sagabox.environment" -}}
{{- $variables := dict -}}
{{- $into := dict "into" $variables "root" .root "name" .name "service" .service "services" .services -}}
{{- include "sagabox.database" $into -}}
{{- if not .once -}}
{{- include "sagabox.shared" $into -}}
{{- if .service.builtIn -}}
{{- include "sagabox.builtIn" $into -}}
{{- end -}}
{{- end -}}
{{- range $variable, $value := .service.env -}}
{{- include "sagabox.unset" (dict "in" $variables "variable" $variable "name" $.name "value" "env") -}}
{{- $_ := set $variables $variable (dict "value" (toString $value)) -}}
{{- end -}}
{{- range $variable, $secret := .service.secretEnv -}}
{{- include "sagabox.unset" (dict "in" $variables "variable" $variable "name" $.name "value" "secretEnv") -}}
{{- $_ := set $variables $variable (include "sagabox.secretKey" $secret | fromYaml) -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end -}}

{{- define "sagabox.database" -}}
{{- if not .service.builtIn -}}
{{- with .service.database -}}
{{- $_ := set $.into .variable (include "sagabox.secretKey" . | fromYaml) -}}
{{- end -}}
{{- else if include "sagabox.onSqlite" . -}}
{{- $_ := set .into (printf "SAGABOX_DATABASE_URL_%s" (upper .name)) (dict "value" (printf "sqlite:////data/%s.sqlite" .name)) -}}
{{- else -}}
{{- $_ := set .into (printf "SAGABOX_DATABASE_URL_%s" (upper .name)) (include "sagabox.secretKey" .service.database | fromYaml) -}}
{{- end -}}
{{- end -}}

{{- define "sagabox.shared" -}}
{{- $_ := set .into "SAGABOX_SECRETS" (include "sagabox.secretKey" .root.Values.messageSecrets | fromYaml) -}}
{{- $_ := set .into "SAGABOX_PEERS" (dict "value" (include "sagabox.peers" .)) -}}
{{- $_ := set .into "SAGABOX_LOG_FORMAT" (dict "value" "json") -}}
{{- $_ := set .into "SAGABOX_LOG_LEVEL" (dict "value" .service.logLevel) -}}
{{- if include "sagabox.onGrpc" . -}}
{{- $_ := set .into "SAGABOX_GRPC_PORT" (dict "value" (toString (int .service.grpcPort))) -}}
{{- if not .service.builtIn -}}
{{- /* Without `sagabox run` it would listen on loopback only. */ -}}
{{- $_ := set .into "SAGABOX_GRPC_HOST" (dict "value" "0.0.0.0") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sagabox.unset" -}}
{{- if hasKey .in .variable -}}
{{- fail (printf "%s of %s names %s, which the chart sets itself; see which value of the chart is for it" .value .name .variable) -}}
{{- end -}}
{{- end -}}

{{/* What only the orchestrator and the blog's services are told. */}}
{{- define "sagabox.builtIn" -}}
{{- $values := .root.Values -}}
{{- $_ := set .into "POD_NAMESPACE" (dict "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.namespace"))) -}}
{{- $_ := set .into "SAGABOX_ALLOWED_HOSTS" (dict "value" (include "sagabox.hosts" .)) -}}
{{- with $values.signingKey -}}
{{- $_ := set $.into "SAGABOX_SIGNING_KEY" (dict "value" .) -}}
{{- end -}}
{{- with $values.trustedProxies -}}
{{- $_ := set $.into "FORWARDED_ALLOW_IPS" (dict "value" .) -}}
{{- end -}}
{{- if eq .name "orchestrator" -}}
{{- with .service.sagas -}}
{{- $_ := set $.into "SAGABOX_SAGAS" (dict "value" (join "," .)) -}}
{{- end -}}
{{- else -}}
{{- $_ := set .into "SAGABOX_BLOG_TOKEN" (include "sagabox.secretKey" $values.blog.token | fromYaml) -}}
{{- if $values.monitoring.enabled -}}
{{- $_ := set .into "SAGABOX_METRICS_TOKEN" (include "sagabox.secretKey" $values.monitoring.token | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- if eq .name "articles" -}}
{{- $here := printf "http://%s:8000" (include "sagabox.name" (dict "root" .root "name" "orchestrator")) -}}
{{- $_ := set .into "SAGABOX_PUBLIC_URL_ORCHESTRATOR" (dict "value" ($values.orchestrator.publicUrl | default $here)) -}}
{{- end -}}
{{- end -}}

{{/* The environment as the list that a container has, sorted: POD_NAMESPACE comes before what uses it. */}}
{{- define "sagabox.env" -}}
{{- range $variable, $given := include "sagabox.environment" . | fromYaml }}
- name: {{ $variable }}
  {{- toYaml $given | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sagabox.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.podSecurity.runAsUser }}
runAsGroup: {{ int .Values.podSecurity.runAsGroup }}
fsGroup: {{ int .Values.podSecurity.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sagabox.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Whether the service's data are a file in a volume of its own. */}}
{{- define "sagabox.onSqlite" -}}
{{- if and .service.builtIn (eq .root.Values.database "sqlite") }}yes{{ end -}}
{{- end -}}

{{- define "sagabox.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "sagabox.onSqlite" . }}
- name: data
  mountPath: /data
{{- end }}
{{- end -}}

{{- define "sagabox.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if include "sagabox.onSqlite" . }}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "sagabox.name" . }}
{{- end }}
{{- end -}}

{{/* What every pod has around its containers. */}}
{{- define "sagabox.around" -}}
automountServiceAccountToken: false
# The variables that the kubelet makes of Services would be named like settings.
enableServiceLinks: false
securityContext:
  {{- include "sagabox.podSecurity" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .service.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .service.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  {{- include "sagabox.volumes" . | nindent 2 }}
{{- end -}}

{{/* The command that brings the service's database up to date; empty where there is none. */}}
{{- define "sagabox.migration" -}}
{{- if .service.builtIn -}}
{{- $command := list "sagabox" "migrate" "upgrade" .name .root.Values.migrate.revision -}}
{{- if not (include "sagabox.onSqlite" .) -}}
{{- $command = concat $command (list "--wait" (toString (int .root.Values.migrate.waitSeconds))) -}}
{{- end -}}
{{- toYaml $command -}}
{{- else if .service.migrate -}}
{{- toYaml .service.migrate -}}
{{- end -}}
{{- end -}}

{{/* A container of the service's image that runs a command to its end. Takes `as` and `command` beside. */}}
{{- define "sagabox.once" -}}
- name: {{ .as }}
  image: {{ include "sagabox.image" . }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command:
    {{- .command | nindent 4 }}
  env:
    {{- include "sagabox.env" (merge (dict "once" true) .) | trim | nindent 4 }}
  resources:
    {{- toYaml .service.resources | nindent 4 }}
  securityContext:
    {{- include "sagabox.containerSecurity" .root | nindent 4 }}
  volumeMounts:
    {{- include "sagabox.volumeMounts" . | nindent 4 }}
{{- end -}}
